//! The wire: packets, the login, requests with their parameters, and the tokens of answers. It knows no statement.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

use rusqlite::types::Value;

use super::statements::{Answer, Refusal, Type};
use super::{DATABASE, PASSWORD, USER};

pub(super) trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

pub(super) const PRELOGIN: u8 = 0x12;
const BATCH: u8 = 0x01;
const RPC: u8 = 0x03;
const LOGIN: u8 = 0x10;
const ANSWER: u8 = 0x04;
const PACKET: usize = 4096;
const SP_EXECUTESQL: u16 = 10;

pub(super) enum Request {
    Batch(String),
    Call(String, Vec<Value>),
}

impl Request {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Batch(text) | Self::Call(text, _) => text,
        }
    }

    pub(super) fn params(&self) -> &[Value] {
        match self {
            Self::Batch(_) => &[],
            Self::Call(_, params) => params,
        }
    }
}

pub(super) struct Conversation {
    stream: Box<dyn Duplex>,
    rest: Vec<u8>,
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, what.into())
}

/// A message, whatever packets it comes in, and its type.
pub(super) fn message(stream: &mut impl Read) -> Result<(u8, Vec<u8>)> {
    let mut message = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let mut body = vec![0; length.checked_sub(8).ok_or_else(|| wrong("a packet's length"))?];
        stream.read_exact(&mut body)?;
        message.extend_from_slice(&body);
        if head[1] & 1 != 0 {
            return Ok((head[0], message));
        }
    }
}

pub(super) fn packets(kind: u8, message: &[u8]) -> Vec<u8> {
    let count = message.chunks(PACKET - 8).len();
    let mut out = Vec::new();
    for (n, piece) in message.chunks(PACKET - 8).enumerate() {
        let length = u16::try_from(piece.len() + 8).unwrap().to_be_bytes();
        out.extend_from_slice(&[kind, u8::from(n + 1 == count), length[0], length[1], 0, 0, 0, 0]);
        out.extend_from_slice(piece);
    }
    out
}

/// The answer to a PRELOGIN: version 16, and what becomes of encryption.
pub(super) fn greeting(encryption: u8) -> Vec<u8> {
    let message = [0, 0, 16, 0, 6, 1, 0, 22, 0, 1, 4, 0, 23, 0, 1, 0xFF, 16, 0, 0, 0, 0, 0, encryption, 0];
    packets(ANSWER, &message)
}

/// The wish for encryption in a PRELOGIN.
pub(super) fn wish(message: &[u8]) -> Option<u8> {
    let mut options = message.chunks(5).take_while(|option| option.first() != Some(&0xFF));
    let option = options.find(|option| option[0] == 1)?;
    message.get(usize::from(u16::from_be_bytes([option[1], option[2]]))).copied()
}

impl Conversation {
    /// Greets without encryption, whatever was wished.
    pub(super) fn greet(mut tcp: TcpStream) -> Result<Self> {
        tcp.set_nodelay(true)?;
        let (PRELOGIN, _) = message(&mut tcp)? else { return Err(wrong("no PRELOGIN")) };
        tcp.write_all(&greeting(2))?;
        Ok(Self::over(Box::new(tcp)))
    }

    pub(super) fn over(stream: Box<dyn Duplex>) -> Self {
        Self { stream, rest: Vec::new() }
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.stream.write_all(&packets(ANSWER, message))?;
        self.stream.flush()
    }

    /// Whether the client may go on.
    pub(super) fn login(&mut self) -> Result<bool> {
        let (LOGIN, login) = message(&mut self.stream)? else { return Err(wrong("no LOGIN7")) };
        let field = |at: usize| {
            let number = |at: usize| usize::from(u16::from_le_bytes([login[at], login[at + 1]]));
            login[number(at)..number(at) + 2 * number(at + 2)].to_vec()
        };
        let (user, database) = (text(&field(40))?, text(&field(68))?);
        let password: Vec<u8> = field(44).iter().map(|b| (b ^ 0xA5).rotate_left(4)).collect();
        let refusal = if user != USER || text(&password)? != PASSWORD {
            Some(Refusal { number: 18456, text: "Login failed for user.".into() })
        } else if database != DATABASE {
            Some(Refusal { number: 4060, text: "Cannot open database requested by the login.".into() })
        } else {
            None
        };
        let mut out = Vec::new();
        match &refusal {
            Some(refusal) => error(&mut out, refusal),
            None => {
                let mut ack = vec![1, 0x74, 0, 0, 4];
                short(&mut ack, "test double of SQL Server");
                ack.extend_from_slice(&[16, 0, 0, 0]);
                token(&mut out, 0xAD, &ack);
            }
        }
        done(&mut out, 0xFD, if refusal.is_some() { 2 } else { 0 }, 0);
        self.send(&out)?;
        Ok(refusal.is_none())
    }

    pub(super) fn request(&mut self) -> Result<Request> {
        let (kind, message) = message(&mut self.stream)?;
        let mut reader = Reader(&message);
        let headers = reader.u32()?;
        reader.take(headers as usize - 4)?;
        match kind {
            BATCH => Ok(Request::Batch(text(reader.0)?)),
            RPC => call(&mut reader),
            other => Err(wrong(format!("a request of type {other}"))),
        }
    }

    pub(super) fn answer(&mut self, request: &Request, answer: &super::Answered) -> Result<()> {
        let message = tokens(request, answer);
        self.send(&message)
    }

    /// Sends the first packet of two.
    pub(super) fn answer_half(&mut self, request: &Request, answer: &super::Answered) -> Result<()> {
        let message = tokens(request, answer);
        let (first, rest) = message.split_at(message.len() / 2);
        let mut packet = packets(ANSWER, &first[..first.len().min(PACKET - 8)]);
        packet[1] = 0;
        self.rest = [&first[first.len().min(PACKET - 8)..], rest].concat();
        self.stream.write_all(&packet)?;
        self.stream.flush()
    }

    pub(super) fn answer_rest(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.send(&rest)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into().unwrap()))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().unwrap()))
    }

    /// A value of a type that may be long: `None` is NULL.
    fn bytes(&mut self, longest: u16) -> Result<Option<Vec<u8>>> {
        if longest < u16::MAX {
            return match self.u16()? {
                u16::MAX => Ok(None),
                length => Ok(Some(self.take(usize::from(length))?.to_vec())),
            };
        }
        let total = u64::from_le_bytes(self.take(8)?.try_into().unwrap());
        if total == u64::MAX {
            return Ok(None);
        }
        let mut all = Vec::new();
        loop {
            match self.u32()? {
                0 => return Ok(Some(all)),
                chunk => all.extend_from_slice(self.take(chunk as usize)?),
            }
        }
    }

    /// A parameter's type and value, and how a statement declares it.
    fn value(&mut self) -> Result<(&'static str, Value)> {
        let nothing = |value: Option<Value>| value.unwrap_or(Value::Null);
        match self.u8()? {
            0x26 => {
                let (declared, length) = (self.u8()?, self.u8()?);
                let name = if declared == 8 { "bigint" } else { "int" };
                match (declared, length) {
                    (_, 0) => Ok((name, Value::Null)),
                    (8, 8) => {
                        Ok((name, Value::Integer(i64::from_le_bytes(self.take(8)?.try_into().unwrap()))))
                    }
                    (4, 4) => Ok((
                        name,
                        Value::Integer(i32::from_le_bytes(self.take(4)?.try_into().unwrap()).into()),
                    )),
                    other => Err(wrong(format!("a number of {other:?}"))),
                }
            }
            0xA5 => {
                let longest = self.u16()?;
                let name = if longest == u16::MAX { "varbinary(max)" } else { "varbinary(8000)" };
                Ok((name, nothing(self.bytes(longest)?.map(Value::Blob))))
            }
            0xE7 => {
                let longest = self.u16()?;
                self.take(5)?;
                let name = if longest == u16::MAX { "nvarchar(max)" } else { "nvarchar(4000)" };
                let bytes = self.bytes(longest)?;
                Ok((name, nothing(bytes.map(|bytes| text(&bytes).map(Value::Text)).transpose()?)))
            }
            other => Err(wrong(format!("a parameter of type {other:#x}"))),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    String::from_utf16(&units).map_err(|_| wrong("a text that is no UTF-16"))
}

/// `sp_executesql` with a statement, the declaration of its parameters, and their values.
fn call(reader: &mut Reader<'_>) -> Result<Request> {
    let (name, procedure, _options) = (reader.u16()?, reader.u16()?, reader.u16()?);
    if (name, procedure) != (u16::MAX, SP_EXECUTESQL) {
        return Err(wrong("a procedure that is not sp_executesql"));
    }
    let (mut names, mut types, mut values) = (Vec::new(), Vec::new(), Vec::new());
    while !reader.0.is_empty() {
        let length = reader.u8()?;
        names.push(text(reader.take(2 * usize::from(length))?)?);
        let _status = reader.u8()?;
        let (declared, value) = reader.value()?;
        types.push(declared);
        values.push(value);
    }
    let mut values = values.into_iter();
    let (Some(Value::Text(statement)), Some(declared)) = (values.next(), values.next()) else {
        return Err(wrong("sp_executesql without a statement"));
    };
    // As the server does: each value under the name and the type that was declared.
    let given: Vec<String> =
        names[2..].iter().zip(&types[2..]).map(|(name, declared)| format!("{name} {declared}")).collect();
    let declared = match &declared {
        Value::Text(declared) => declared.as_str(),
        _ => "",
    };
    if given.join(",") != declared {
        return Err(wrong(format!("{declared} is declared, {given:?} is given")));
    }
    Ok(Request::Call(statement, values.collect()))
}

fn token(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&u16::try_from(body.len()).unwrap().to_le_bytes());
    out.extend_from_slice(body);
}

fn utf16(out: &mut Vec<u8>, text: &str) {
    for unit in text.encode_utf16() {
        out.extend_from_slice(&unit.to_le_bytes());
    }
}

fn short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.encode_utf16().count()).unwrap());
    utf16(out, text);
}

fn error(out: &mut Vec<u8>, refusal: &Refusal) {
    let mut body = refusal.number.to_le_bytes().to_vec();
    body.extend_from_slice(&[1, 14]);
    body.extend_from_slice(&u16::try_from(refusal.text.encode_utf16().count()).unwrap().to_le_bytes());
    utf16(&mut body, &refusal.text);
    short(&mut body, "double");
    short(&mut body, "");
    body.extend_from_slice(&1_u32.to_le_bytes());
    token(out, 0xAA, &body);
}

fn done(out: &mut Vec<u8>, kind: u8, status: u16, rows: u64) {
    out.push(kind);
    out.extend_from_slice(&status.to_le_bytes());
    out.extend_from_slice(&0_u16.to_le_bytes());
    out.extend_from_slice(&rows.to_le_bytes());
}

/// How a transaction that begins and ends inside of a request is told of.
fn transaction(out: &mut Vec<u8>) {
    let descriptor = [7, 7, 7, 7, 7, 7, 7, 7];
    token(out, 0xE3, &[&[8, 8][..], &descriptor, &[0]].concat());
    token(out, 0xE3, &[&[9, 0, 8][..], &descriptor].concat());
}

fn tokens(request: &Request, answer: &super::Answered) -> Vec<u8> {
    let mut out = Vec::new();
    let is_call = matches!(request, Request::Call(..));
    let status = match answer {
        Ok(answer) => {
            if answer.has_transaction {
                transaction(&mut out);
            }
            if !answer.columns.is_empty() {
                table(&mut out, answer);
            }
            0
        }
        Err(refusal) => {
            error(&mut out, refusal);
            2
        }
    };
    if is_call {
        done(&mut out, 0xFF, 1, 0);
        out.push(0x79);
        out.extend_from_slice(&0_u32.to_le_bytes());
    }
    done(&mut out, if is_call { 0xFE } else { 0xFD }, status, 0);
    out
}

fn table(out: &mut Vec<u8>, answer: &Answer) {
    out.push(0x81);
    out.extend_from_slice(&u16::try_from(answer.columns.len()).unwrap().to_le_bytes());
    for (name, kind) in &answer.columns {
        out.extend_from_slice(&[0, 0, 0, 0, 1, 0]);
        match kind {
            Type::Int => out.extend_from_slice(&[0x26, 4]),
            Type::BigInt => out.extend_from_slice(&[0x26, 8]),
            Type::Binary(length) => {
                out.push(0xAD);
                out.extend_from_slice(&length.to_le_bytes());
            }
            Type::VarBinary(longest) => {
                out.push(0xA5);
                out.extend_from_slice(&longest.to_le_bytes());
            }
        }
        short(out, name);
    }
    for row in &answer.rows {
        out.push(0xD1);
        for ((_, kind), value) in answer.columns.iter().zip(row) {
            cell(out, *kind, value);
        }
    }
}

fn cell(out: &mut Vec<u8>, kind: Type, value: &Value) {
    match (kind, value) {
        (Type::Int, Value::Integer(n)) => {
            out.push(4);
            out.extend_from_slice(&i32::try_from(*n).unwrap().to_le_bytes());
        }
        (Type::BigInt, Value::Integer(n)) => {
            out.push(8);
            out.extend_from_slice(&n.to_le_bytes());
        }
        (Type::Int | Type::BigInt, Value::Null) => out.push(0),
        (Type::VarBinary(u16::MAX), Value::Blob(bytes)) => {
            out.extend_from_slice(&u64::try_from(bytes.len()).unwrap().to_le_bytes());
            for chunk in bytes.chunks(8000) {
                out.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
                out.extend_from_slice(chunk);
            }
            out.extend_from_slice(&[0; 4]);
        }
        (Type::Binary(_) | Type::VarBinary(_), Value::Blob(bytes)) => {
            out.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_le_bytes());
            out.extend_from_slice(bytes);
        }
        (Type::VarBinary(u16::MAX), Value::Null) => out.extend_from_slice(&[0xFF; 8]),
        (Type::Binary(_) | Type::VarBinary(_), Value::Null) => out.extend_from_slice(&[0xFF; 2]),
        other => panic!("the double has {other:?} for a cell"),
    }
}
