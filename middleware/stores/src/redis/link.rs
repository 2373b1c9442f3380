//! The connection that all calls share, and its replacement when it fails. It knows nothing of rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Script,
    ServerErrorKind, Value,
};
use sessile_engine::store::StoreError;
use tokio::sync::Mutex;

use super::sentinel::{self, Sentinel};
use super::{address, error};

/// A multiplexed connection: requests of many callers are on the way at once, and answers come in their order.
///
/// A caller that goes away leaves its place in that order behind, so nobody gets another's answer.
pub(super) struct Link {
    origin: Origin,
    patience: Duration,
    live: Mutex<Option<Live>>,
    /// The number of the latest connection that is of no more use.
    broken: Arc<AtomicU64>,
    closed: AtomicBool,
}

/// Where connections lead.
#[derive(Clone)]
pub(super) enum Origin {
    Server(Box<Client>),
    /// To whatever server is the primary when the connection is made.
    Sentinel(Arc<Sentinel>),
}

impl Origin {
    async fn client(&self) -> Result<Client, StoreError> {
        match self {
            Self::Server(client) => Ok(Client::clone(client)),
            Self::Sentinel(sentinel) => sentinel.primary().await,
        }
    }

    /// A connection, on which `config` is followed.
    pub(super) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, StoreError> {
        let client = self.client().await?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(config)
            .await
            .map_err(|e| error::of("no connection", e))?;
        if let Self::Sentinel(_) = self {
            sentinel::confirm(&mut connection).await?;
        }
        Ok(connection)
    }
}

/// Why there is no answer.
pub(super) enum Failed {
    /// There was no connection to send the request over.
    NotSent(StoreError),
    /// Nobody knows what became of the request.
    Lost(RedisError),
    /// The server refused it.
    Said(RedisError),
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
    pub(super) fn new(origin: Origin, patience: Duration) -> Self {
        Self {
            origin,
            patience,
            live: Mutex::new(None),
            broken: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// `host:port` of a server that is always the same.
    pub(super) fn address(&self) -> String {
        match &self.origin {
            Origin::Server(client) => address::of(client.get_connection_info().addr()),
            Origin::Sentinel(_) => None,
        }
        .unwrap_or_default()
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
        let connection = self.origin.connect(&config).await?;
        Ok(slot.insert(Live { connection, number }).clone())
    }

    async fn send<T>(
        &self,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Failed> {
        let mut live = self.live().await.map_err(Failed::NotSent)?;
        let mut suspect = Suspect { link: self, number: live.number, answered: false };
        let answer = ask(&mut live.connection).await;
        suspect.answered = answer.as_ref().err().is_none_or(|e| !error::is_of_connection(e));
        drop(suspect);
        answer.map_err(|e| match e.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => Failed::Said(e),
            _ => Failed::Lost(e),
        })
    }

    async fn over<T>(
        &self,
        what: &'static str,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<RedisResult<T>, StoreError> {
        match self.send(ask).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Failed::Said(e)) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => Ok(Err(e)),
            Err(Failed::Said(e) | Failed::Lost(e)) => Err(error::of(what, e)),
            Err(Failed::NotSent(e)) => Err(e),
        }
    }

    /// Asks one question of a node of a cluster; with `asking`, of one that is about to be given the slot.
    pub(super) async fn try_ask(&self, cmd: &Cmd, asking: bool) -> Result<Value, Failed> {
        if !asking {
            return self.send(async |c| cmd.query_async(c).await).await;
        }
        let mut pipeline = ::redis::pipe();
        pipeline.cmd("ASKING").add_command(cmd.clone());
        self.send(async |c| {
            let answers = c.req_packed_commands(&pipeline, 1, 1).await?;
            answers.into_iter().next().unwrap_or(Value::Nil).extract_error()
        })
        .await
    }

    /// As [`try_ask`](Self::try_ask), a script, by its hash or with its text.
    pub(super) async fn try_run(&self, call: &Call, asking: bool) -> Result<Value, Failed> {
        match self.try_ask(&call.by_hash(), asking).await {
            Err(Failed::Said(e)) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.try_ask(&call.by_text(), asking).await
            }
            answer => answer,
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
    more_keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn new(script: &'static (Script, String), keys: Arc<[String]>) -> Self {
        Self { script: &script.0, text: &script.1, keys, more_keys: Vec::new(), args: Vec::new() }
    }

    pub(super) fn arg(mut self, arg: impl Into<Vec<u8>>) -> Self {
        self.push(arg);
        self
    }

    pub(super) fn push(&mut self, arg: impl Into<Vec<u8>>) {
        self.args.push(arg.into());
    }

    /// Names one more key that the script may write.
    pub(super) fn key(&mut self, key: String) {
        self.more_keys.push(key);
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
        cmd.arg(script).arg(self.keys.len() + self.more_keys.len());
        for key in self.keys.iter().chain(&self.more_keys) {
            cmd.arg(key);
        }
        for arg in &self.args {
            cmd.arg(&arg[..]);
        }
        cmd
    }
}
