//! A stream whose bytes travel in PRELOGIN packets while a handshake lasts, and as they are from then on. It owns their
//! heads; it does not know what is in them.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a packet's head.
pub(super) const HEADER: usize = 8;
pub(super) const PRELOGIN: u8 = 0x12;
/// What every server takes before it has agreed on another size.
const PACKET: usize = 4096;
const LAST: u8 = 1;

/// The length of a packet, if its head is there and right.
#[expect(clippy::big_endian_bytes, reason = "heads of packets have that order")]
pub(super) fn length(packet: &[u8]) -> Option<usize> {
    let [_, _, high, low, ..] = packet else { return None };
    Some(usize::from(u16::from_be_bytes([*high, *low]))).filter(|length| *length >= HEADER)
}

pub(super) struct Wrapped<S> {
    inner: S,
    is_wrapped: bool,
    /// Written, but not yet put into packets.
    message: Vec<u8>,
    /// Packets, and how much of them has been sent.
    packets: Vec<u8>,
    sent: usize,
    /// The part of a head that has come.
    head: Vec<u8>,
    /// What is still to come of a packet's body.
    body: usize,
}

impl<S> Wrapped<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            is_wrapped: true,
            message: Vec::new(),
            packets: Vec::new(),
            sent: 0,
            head: Vec::new(),
            body: 0,
        }
    }

    /// The handshake is over.
    pub(super) fn unwrap_from_here(&mut self) {
        self.is_wrapped = false;
    }

    #[expect(clippy::big_endian_bytes, reason = "heads of packets have that order")]
    fn wrap(&mut self) {
        self.packets.clear();
        self.sent = 0;
        let count = self.message.chunks(PACKET - HEADER).len();
        for (n, piece) in self.message.chunks(PACKET - HEADER).enumerate() {
            let length = u16::try_from(piece.len() + HEADER).unwrap_or(u16::MAX).to_be_bytes();
            let status = if n + 1 == count { LAST } else { 0 };
            self.packets.extend_from_slice(&[PRELOGIN, status, length[0], length[1], 0, 0, 0, 0]);
            self.packets.extend_from_slice(piece);
        }
        self.message.clear();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wrapped<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if !this.is_wrapped {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        while this.body == 0 {
            let mut byte = [0; HEADER];
            let missing = byte.get_mut(this.head.len()..).unwrap_or_default();
            let mut piece = ReadBuf::new(missing);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                // Ended.
                return Poll::Ready(Ok(()));
            }
            this.head.extend_from_slice(piece.filled());
            if this.head.len() == HEADER {
                let length = length(&this.head).ok_or(ErrorKind::InvalidData)?;
                this.body = length - HEADER;
                this.head.clear();
            }
        }
        let mut piece = vec![0; this.body.min(buf.remaining())];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
        buf.put_slice(piece.filled());
        this.body -= piece.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wrapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        if self.is_wrapped {
            self.message.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        loop {
            match this.packets.get(this.sent..) {
                Some(rest) if !rest.is_empty() => {
                    let sent = ready!(Pin::new(&mut this.inner).poll_write(cx, rest))?;
                    if sent == 0 {
                        return Poll::Ready(Err(Error::from(ErrorKind::WriteZero)));
                    }
                    this.sent += sent;
                }
                _ if this.message.is_empty() => return Pin::new(&mut this.inner).poll_flush(cx),
                _ => this.wrap(),
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What one wraps the other unwraps, whatever the sizes of messages, reads and the pipe between them.
        #[test]
        fn messages_come_through(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9000), 1..5),
            pipe in 1_usize..5000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let wanted = messages.concat();
            let read = runtime.block_on(async {
                let (one, other) = tokio::io::duplex(pipe);
                let sending = async {
                    let mut one = Wrapped::new(one);
                    for message in &messages {
                        one.write_all(message).await.unwrap();
                        one.flush().await.unwrap();
                    }
                    one.unwrap_from_here();
                    one.write_all(b"plain").await.unwrap();
                    one.shutdown().await.unwrap();
                };
                let reading = async {
                    let mut other = Wrapped::new(other);
                    let mut read = vec![0; wanted.len()];
                    other.read_exact(&mut read).await.unwrap();
                    other.unwrap_from_here();
                    let mut plain = Vec::new();
                    other.read_to_end(&mut plain).await.unwrap();
                    assert_eq!(plain, b"plain");
                    read
                };
                tokio::join!(sending, reading).1
            });
            prop_assert_eq!(read, wanted);
        }

        #[test]
        fn any_bytes_are_unwrapped_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut read = Vec::new();
            let _ = runtime.block_on(Wrapped::new(&bytes[..]).read_to_end(&mut read));
        }
    }
}
