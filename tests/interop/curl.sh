#!/usr/bin/env bash
# curl with its cookie engine against the playground. It sets no cookie by hand, except to present a token that is
# dead. A jar is a file; a restart is a run of curl that drops the file's session cookies (`-j`), as a browser would.
set -u
limit=30
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
# Not the user's .curlrc and not their proxy.
plain=(curl -q -sS --noproxy '*' --fail-with-body --max-time "$limit")
[ -n "${CA:-}" ] && plain+=(--cacert "$CA")

die() { printf '%s\n' "$*" >&2; exit 1; }

# same FOUND EXPECTED WHAT
same() { [ "$1" = "$2" ] || die "$3: expected '$2', found '$1'"; }

# need VARIABLE: the address of a playground; `run` says what stands behind each.
need() {
  base=${!1:-}
  [ -n "$base" ] || { printf 'no %s: TLS needs openssl and python3\n' "$1" >&2; exit 77; }
}

# get JAR PATH [OPTION...]: prints the body. Sets nothing: it may run in a subshell.
get() {
  local jar=$1 path=$2
  shift 2
  "${plain[@]}" -b "$jar" -c "$jar" "$@" "$base$path" || die "curl $path ended with $?"
}

# cookies JAR: `name value` of each cookie in it.
cookies() {
  [ -f "$1" ] || return 0
  sed 's/^#HttpOnly_//' "$1" | awk -F '\t' '!/^#/ && NF == 7 { print $6 " " $7 }'
}

# count_objects JSON: how many objects a list holds; ours nest none.
count_objects() { printf '%s' "$1" | tr -cd '{' | wc -c; }

# listen JAR: opens /events in the background and returns once the server has answered. Sets `stream`, `heard`.
listen() {
  heard=$(mktemp -p "$dir") || exit 1
  "${plain[@]}" --max-time 60 -i -N -b "$1" "$base/events" >"$heard" 2>&1 &
  stream=$!
  local i
  for ((i = 0; i < limit * 20; i++)); do
    # The head has come when its empty line has.
    grep -q $'^\r$' "$heard" && { grep -q ' 200' "$heard" || die "$(head -1 "$heard")"; return; }
    sleep 0.05
  done
  kill "$stream"
  die "no answer from /events in $limit s"
}

# heard_the_end: the server has ended the stream, and its last event is `revoked`.
heard_the_end() {
  wait "$stream" || die "the stream broke off with $?: $(tail -1 "$heard")"
  same "$(tr -d '\r' <"$heard" | sed -n 's/^event: *//p' | tail -1)" revoked 'the last event'
}

keeps() {
  need PLAIN
  get j '/put?key=k&value=v%201' >/dev/null
  same "$(cookies j | wc -l)" 1 'cookies in the jar'
  same "$(get j '/get?key=k')" 'v 1' 'the value'
  same "$(get stranger '/get?key=k')" '' "a stranger's value"
}

destroys() {
  need PLAIN
  get j '/put?key=k&value=v' >/dev/null
  same "$(cookies j | wc -l)" 1 'cookies before'
  get j /destroy >/dev/null
  same "$(cookies j)" '' 'cookies in the jar'
  same "$(get j '/get?key=k')" '' 'the value'
}

logs_in() {
  need PLAIN
  get j '/put?key=cart&value=book' >/dev/null
  local before
  before=$(cookies j | cut -d ' ' -f 2)
  get j '/login?owner=curl-login' >/dev/null
  [ -n "$before" ] && [ "$(cookies j)" != "session $before" ] || die 'the token is the same as before'
  same "$(get j '/get?key=cart')" book 'the cart'
  same "$(count_objects "$(get j /sessions)")" 1 'sessions of the owner'
  same "$(get thief '/get?key=cart' -H "Cookie: session=$before")" '' 'the cart with the old token'
}

flashes() {
  need PLAIN
  local page
  page=$(get j '/flash?level=success&message=Saved%20%E2%9C%93&to=/flashes' -L -w ' %{num_redirects}')
  same "${page##* }" 1 'redirects'
  same "$(count_objects "$page")" 1 'messages'
  [[ $page == *'"success"'* && $page == *'"Saved ✓"'* ]] || die "the message: $page"
  same "$(get j /flashes)" '[]' 'messages of the next page'
}

remembered() {
  need BRIEF
  get j '/login?owner=curl-remembered' >/dev/null
  get j '/remember?on=true' >/dev/null
  same "$(count_objects "$(get j /sessions -j)")" 1 'sessions of the owner'
}

forgotten() {
  need BRIEF
  get j '/login?owner=curl-forgotten' >/dev/null
  same "$(get j '/exists?key=none')" false 'an answer before'
  get j '/put?key=k&value=v' >/dev/null
  same "$(get j '/get?key=k')" v 'the value before'
  same "$(get j '/get?key=k' -j)" '' 'the value after'
  same "$(cookies j)" '' 'cookies in the jar'
  need PLAIN
  get i '/login?owner=curl-forgotten' >/dev/null
  get i '/remember?on=false' >/dev/null
  get i '/put?key=k&value=v' >/dev/null
  same "$(get i '/get?key=k')" v 'the value before'
  same "$(get i '/get?key=k' -j)" '' 'the value after'
}

one_tab_logs_out() {
  need PLAIN
  get j '/login?owner=curl-tabs' >/dev/null
  listen j
  get j /destroy >/dev/null
  heard_the_end
}

all_log_out() {
  need PLAIN
  get phone '/login?owner=curl-devices' >/dev/null
  get phone '/put?key=mail&value=old' >/dev/null
  get laptop '/login?owner=curl-devices' >/dev/null
  same "$(count_objects "$(get laptop /sessions)")" 2 'sessions of the owner'
  listen phone
  get laptop /logout-everywhere >/dev/null
  heard_the_end
  same "$(get phone '/get?key=mail')" '' 'the value on the phone'
  local dead
  dead=$(cookies phone)
  get phone '/put?key=mail&value=new' >/dev/null
  [ "$(cookies phone)" != "$dead" ] || die 'a dead token was taken up again'
}

over() {
  need SHORT
  get j /put >/dev/null
  sleep 3
  get j /get >/dev/null
  same "$(cookies j)" '' 'cookies in the jar'
}

host_only() {
  need PLAIN
  get j '/put?key=k&value=v' >/dev/null
  base=${base/localhost/127.0.0.1}
  same "$(get j '/get?key=k')" '' 'the value'
}

secure_over_tls() {
  need TLS
  get j '/put?key=k&value=v' >/dev/null
  same "$(grep -c "^#HttpOnly_localhost	FALSE	/	TRUE	" j)" 1 'HttpOnly, host-only, Path=/, Secure cookies in the jar'
  same "$(get j '/get?key=k')" v 'the value'
}

prefix_over_tls() {
  need HOST_TLS
  get j '/put?key=k&value=v' >/dev/null
  same "$(cookies j | cut -d ' ' -f 1)" __Host-id 'cookies in the jar'
  same "$(get j '/get?key=k')" v 'the value'
}

# curl takes localhost for trustworthy, from 7.79 on.
over_http() {
  need "$1"
  get j '/put?key=k&value=v' >/dev/null
  same "$(get j '/get?key=k')" v 'the value'
  echo kept
}
secure_over_http() { over_http SECURE; }
prefix_over_http() { over_http HOST; }

header() {
  need HEADER
  local mine
  mine=$(get j '/put?key=k&value=v' -o put -D - | tr -d '\r' | sed -n 's/^x-session-token: //p')
  [ -n "$mine" ] || die 'no token'
  same "$(cookies j)" '' 'cookies in the jar'
  same "$(get j '/get?key=k' -H "X-Session-Token: $mine")" v 'the value'
  same "$(get j '/get?key=k' -H "Authorization: Bearer $mine")" v 'with Bearer'
  same "$(get j '/get?key=k')" '' 'without the header'
}

# scenario FUNCTION NAME: in a subshell and an empty directory of its own.
scenario() {
  local code said
  mkdir "$dir/$1" || exit 1
  (set -e; cd "$dir/$1"; "$1") >"$dir/out" 2>"$dir/err"
  code=$?
  said=$(tr -s '\n\t' '  ' <"$dir/err")
  case $code in
    0) printf 'pass\t%s\t%s\n' "$2" "$(cat "$dir/out")" ;;
    77) printf 'skip\t%s\t%s\n' "$2" "$said" ;;
    *) printf 'FAIL\t%s\t%s\n' "$2" "$said" ;;
  esac
}

printf 'version\tcurl %s\n' "$(curl --version | awk '{ print $2; exit }')"
scenario keeps 'a value comes back with the cookie'
scenario destroys 'destroy removes the cookie'
scenario logs_in 'login gives a new token, and the old one is dead'
scenario flashes 'a flash message is read once, after the redirect'
scenario remembered 'remembered: the login outlives a restart'
scenario forgotten 'not remembered: the login ends with the restart'
scenario one_tab_logs_out "logout in one tab ends the other tab's event stream"
scenario all_log_out "logout everywhere ends another device's stream, and its cookie opens nothing"
scenario over "the cookie goes when the session's time is over"
scenario host_only 'the cookie is not sent to another host name'
scenario secure_over_tls 'over https: the default cookie is kept'
scenario prefix_over_tls 'over https: a `__Host-` cookie is kept'
scenario secure_over_http 'over http://localhost: the default cookie, which is `Secure`'
scenario prefix_over_http 'over http://localhost: a `__Host-` cookie'
scenario header 'header transport: the token goes in `X-Session-Token`, and no cookie'
