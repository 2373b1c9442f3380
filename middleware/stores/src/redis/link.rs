//! The connection that all calls share, and its replacement when it fails. It knows nothing of rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, PushInfo, PushKind, RedisResult, Script, ServerErrorKind,
    Value,
};
use sessile_engine::store::StoreError;
use tokio::sync::Mutex;

use super::error;

/// A multiplexed connection: requests of many callers are on the way at once, and answers come in their order.
///
/// A caller that goes away leaves its place in that order behind, so nobody gets another's answer.
pub(super) struct Link {
    client: Client,
    patience: Duration,
    live: Mutex<Option<Live>>,
    /// The number of the latest connection that is of no more use.
    broken: Arc<AtomicU64>,
    closed: AtomicBool,
}

#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    number: u64,
}

/// Gives the connection up if a request ends without an answer: the server may never give one. Whoever shares it
/// keeps it until their own answers or deadlines.
struct Suspect<'a> {
    link: &'a Link,
    number: u64,
    answered: bool,
}

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.link.broken.fetch_max(self.number, Ordering::AcqRel);
        }
    }
}

/// How every connection is made. Deadlines are the callers', but for a server that accepts and says nothing.
pub(super) fn connection_config(patience: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(None)
}

impl Link {
    pub(super) fn new(client: Client, patience: Duration) -> Self {
        Self {
            client,
            patience,
            live: Mutex::new(None),
            broken: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refuses all later calls. Returns whether this call closed it.
    pub(super) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Lets the connection go.
    pub(super) async fn hang_up(&self) {
        *self.live.lock().await = None;
    }

    async fn live(&self) -> Result<Live, StoreError> {
        // Who waits for the lock waits for a connection that another makes.
        let mut slot = self.live.lock().await;
        let broken = self.broken.load(Ordering::Acquire);
        if let Some(live) = slot.as_ref().filter(|live| live.number > broken) {
            return Ok(live.clone());
        }
        let number = slot.take().map_or(broken, |old| old.number.max(broken)) + 1;
        // An idle connection that the server closes is replaced before anybody asks over it.
        let mark = Arc::clone(&self.broken);
        let config = connection_config(self.patience).set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                mark.fetch_max(number, Ordering::AcqRel);
            }
            Ok::<(), SendError>(())
        });
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| error::of("no connection", e))?;
        Ok(slot.insert(Live { connection, number }).clone())
    }

    async fn over<T>(
        &self,
        what: &'static str,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<RedisResult<T>, StoreError> {
        let mut live = self.live().await?;
        let mut suspect = Suspect { link: self, number: live.number, answered: false };
        let answer = ask(&mut live.connection).await;
        suspect.answered = answer.as_ref().err().is_none_or(|e| !error::is_of_connection(e));
        drop(suspect);
        match answer {
            Err(e) if e.kind() != ErrorKind::Server(ServerErrorKind::NoScript) => Err(error::of(what, e)),
            answer => Ok(answer),
        }
    }

    /// Asks one question.
    pub(super) async fn ask(&self, what: &'static str, cmd: &Cmd) -> Result<Value, StoreError> {
        self.over(what, async |c| cmd.query_async(c).await).await?.map_err(|e| error::of(what, e))
    }

    /// Runs a script by its hash; with its text if the server has forgotten it.
    pub(super) async fn run(&self, what: &'static str, call: &Call) -> Result<Value, StoreError> {
        match self.over(what, async |c| call.by_hash().query_async(c).await).await? {
            Ok(value) => Ok(value),
            Err(_) => self.ask(what, &call.by_text()).await,
        }
    }

    /// Runs scripts one after the other, in one round trip. Each is sent with its text: if the server had forgotten
    /// the first, a later one might otherwise find itself before it.
    pub(super) async fn run_all(&self, what: &'static str, calls: &[Call]) -> Result<Vec<Value>, StoreError> {
        match calls {
            [] => Ok(Vec::new()),
            [call] => Ok(vec![self.run(what, call).await?]),
            _ => {
                let mut pipeline = ::redis::pipe();
                for call in calls {
                    pipeline.add_command(call.by_text());
                }
                let count = calls.len();
                let values =
                    self.over(what, async |c| c.req_packed_commands(&pipeline, 0, count).await).await?;
                values
                    .and_then(|values| values.into_iter().map(Value::extract_error).collect())
                    .map_err(|e| error::of(what, e))
            }
        }
    }
}

/// A script with what it is called with.
pub(super) struct Call {
    script: &'static Script,
    text: &'static str,
    keys: Arc<[String]>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn new(script: &'static (Script, String), keys: Arc<[String]>) -> Self {
        Self { script: &script.0, text: &script.1, keys, args: Vec::new() }
    }

    pub(super) fn arg(mut self, arg: impl Into<Vec<u8>>) -> Self {
        self.push(arg);
        self
    }

    pub(super) fn push(&mut self, arg: impl Into<Vec<u8>>) {
        self.args.push(arg.into());
    }

    pub(super) fn set(&mut self, index: usize, value: impl Into<Vec<u8>>) {
        if let Some(arg) = self.args.get_mut(index) {
            *arg = value.into();
        }
    }

    /// Bytes of its arguments.
    pub(super) fn size(&self) -> usize {
        self.args.iter().map(Vec::len).sum()
    }

    fn by_hash(&self) -> Cmd {
        self.with("EVALSHA", self.script.get_hash())
    }

    fn by_text(&self) -> Cmd {
        self.with("EVAL", self.text)
    }

    fn with(&self, verb: &str, script: &str) -> Cmd {
        let mut cmd = ::redis::cmd(verb);
        cmd.arg(script).arg(self.keys.len());
        for key in &*self.keys {
            cmd.arg(key);
        }
        for arg in &self.args {
            cmd.arg(&arg[..]);
        }
        cmd
    }
}
