//! The five-key session of every comparison, and a seeded stream of indices.

use sessile::engine::Session;
use sessile::{Delivery, Engine, Token};

/// Fills a session with the five keys: an i64 and strings of 20, 8, 32 and 60 bytes.
pub fn fill(session: &Session, i: u64) -> sessile::Result<()> {
    session.transact(|tx| {
        tx.put("user_id", &i64::try_from(i).unwrap_or(0))?;
        tx.put("name", "abcdefghijklmnopqrst")?;
        tx.put("role", "operator")?;
        tx.put("csrf", "0123456789abcdef0123456789abcdef")?;
        tx.put("last_page", "/a/page/with/a/path/that/is/quite/long/but/not/absurd/at-all")?;
        Ok(())
    })
}

/// Creates and publishes a five-key session.
pub async fn create(engine: &Engine, i: u64) -> sessile::Result<Option<Token>> {
    let session = engine.session(None).await?;
    fill(&session, i)?;
    Ok(match session.commit().await? {
        Delivery::Issue(issue) => Some(issue.token),
        _ => None,
    })
}

/// xorshift64*: the same stream everywhere, at a nanosecond a number.
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// An index below `n`.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next_u64() % n as u64).unwrap_or(0)
    }
}
