
end
-- A slot that is on its way to another server, and of which a part is here and a part there, is an answer, not a failure.
local done, answer = pcall(main)
if done then return answer end
local why = answer
if type(answer) == 'table' then why = answer.err end
if type(why) == 'string' then
  for _, part in ipairs({ 'non local key', 'cluster is down' }) do
    if string.find(why, part, 1, true) then return 'again' end
  end
end
-- What a command said is passed on as it is, with its code.
if type(answer) == 'table' then return answer end
if string.find(why, '^%u+ ') then return { err = why } end
error(answer, 0)
