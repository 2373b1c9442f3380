//! The command line.

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Args {
    pub command: String,
    pub keys: Vec<usize>,
    pub sessions: Vec<usize>,
    pub rounds: usize,
    pub batch: usize,
    pub seconds: f64,
    /// Whether new, pop, renew, destroy and touch are measured too.
    pub life: bool,
    /// Only subjects whose name contains one of these.
    pub only: Vec<String>,
    pub dir: Option<String>,
    pub rest: Vec<String>,
}

impl Args {
    pub fn parse(mut from: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            command: from.next().ok_or("no command")?,
            keys: vec![5],
            sessions: vec![100_000],
            rounds: 9,
            batch: 10_000,
            seconds: 2.0,
            life: false,
            only: Vec::new(),
            dir: None,
            rest: Vec::new(),
        };
        while let Some(name) = from.next() {
            let mut value = || from.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--keys" => args.keys = numbers(&value()?)?,
                "--sessions" => args.sessions = numbers(&value()?)?,
                "--rounds" => args.rounds = number(&value()?)?,
                "--batch" => args.batch = number(&value()?)?,
                "--seconds" => args.seconds = value()?.parse().map_err(|e| format!("--seconds: {e}"))?,
                "--only" => args.only = value()?.split(';').map(str::to_owned).collect(),
                "--dir" => args.dir = Some(value()?),
                "--life" => args.life = true,
                _ => args.rest.push(name),
            }
        }
        Ok(args)
    }

    pub fn wants(&self, subject: &str) -> bool {
        self.only.is_empty()
            || subject.starts_with("bare")
            || self.only.iter().any(|part| subject.contains(part.as_str()))
    }

    /// A directory of this run's own.
    pub fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.replace('_', "").parse().map_err(|e| format!("{text}: {e}"))
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    text.split(',').map(number).collect()
}
