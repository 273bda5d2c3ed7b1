//! The workload of invariant O1: clients put, change and delete objects and containers through the front door of a whole
//! object store in the guest, whose only device is on the disk.
//!
//! Each of [`THREADS`] clients has a container of its own and a [`Plan`] that follows from the seed. When an operation
//! was answered it puts a mark with its number and that of the operation, and only then begins the next one. So the
//! checker ([`objects_check`](super::objects_check)) knows from the marks alone what has to be there: what the plan
//! leads to, or the same and one operation more.
//!
//! Half-way the first client kills the store, which is started again; what was under way then is asked for once more. So
//! cuts are also made while a store recovers.

use super::marks::MarkWriter;
use super::random::Random;
use crate::http::{Connection, Head};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many clients work at a time.
pub const THREADS: u64 = 4;
/// How many names of objects each of them has.
pub const NAMES: usize = 5;
/// The user who owns everything.
pub const USER: &str = "test:tester";
/// That user's key, of no use outside the guest.
pub const KEY: &str = "testing";

/// How long an operation may take, with a restart of the store in its middle. The guest is emulated.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(120);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Bodies up to this length stay in the device's tables.
const SMALL_BYTES_MAX: u64 = 64 << 10;
const LARGE_BYTES_MAX: u64 = 200 << 10;

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// PUT of an object of this length, new or over another.
    Put {
        /// Which of the names.
        name: usize,
        /// Bytes.
        length: usize,
    },
    /// POST of an object's metadata.
    Post {
        /// Which of the names.
        name: usize,
    },
    /// DELETE of an object.
    Delete {
        /// Which of the names.
        name: usize,
    },
    /// POST of the container's metadata.
    PostContainer,
    /// PUT of a second container.
    PutExtra,
    /// DELETE of that.
    DeleteExtra,
}

/// An object as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// The operation that put its bytes.
    pub put: usize,
    /// How many there are.
    pub length: usize,
    /// The operation that set its metadata.
    pub metadata: usize,
}

/// What a client's operations have led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Its objects.
    pub objects: [Option<Object>; NAMES],
    /// The operation that set the container's metadata.
    pub metadata: Option<usize>,
    /// Whether the second container is there.
    pub has_extra: bool,
}

impl State {
    fn after(&self, number: usize, operation: Operation) -> Self {
        let mut next = self.clone();
        match operation {
            Operation::Put { name, length } => {
                next.objects[name] = Some(Object {
                    put: number,
                    length,
                    metadata: number,
                });
            }
            Operation::Post { name } => {
                if let Some(object) = &mut next.objects[name] {
                    object.metadata = number;
                }
            }
            Operation::Delete { name } => next.objects[name] = None,
            Operation::PostContainer => next.metadata = Some(number),
            Operation::PutExtra => next.has_extra = true,
            Operation::DeleteExtra => next.has_extra = false,
        }
        next
    }
}

/// The operations of one client; the number of an operation is its place.
#[derive(Debug)]
pub struct Plan {
    /// Whose it is.
    pub thread: u64,
    /// What it does.
    pub operations: Vec<Operation>,
    /// What was there before each operation, and after the last.
    pub states: Vec<State>,
}

impl Plan {
    /// The plan that follows from a seed.
    #[must_use]
    pub fn new(seed: u64, thread: u64, count: usize) -> Self {
        let mut random = Random::new(seed.wrapping_add(thread));
        let mut operations = Vec::with_capacity(count);
        let mut states = vec![State::default()];
        let mut state = State::default();
        for number in 0..count {
            let operation = next_operation(&mut random, &state);
            state = state.after(number, operation);
            operations.push(operation);
            states.push(state.clone());
        }
        Self {
            thread,
            operations,
            states,
        }
    }
}

fn next_operation(random: &mut Random, state: &State) -> Operation {
    let name = usize::try_from(random.below(NAMES as u64)).unwrap_or(0);
    let kind = random.below(12);
    let is_there = state.objects[name].is_some();
    let bytes = match random.below(4) {
        0 | 1 => 1 + random.below(1 << 10),
        2 => 1 + random.below(SMALL_BYTES_MAX),
        _ => SMALL_BYTES_MAX + 1 + random.below(LARGE_BYTES_MAX - SMALL_BYTES_MAX),
    };
    match kind {
        0 | 1 if is_there => Operation::Delete { name },
        2 | 3 if is_there => Operation::Post { name },
        4 => Operation::PostContainer,
        5 if state.has_extra => Operation::DeleteExtra,
        5 => Operation::PutExtra,
        _ => Operation::Put {
            name,
            length: usize::try_from(bytes).unwrap_or(1),
        },
    }
}

/// What an operation puts.
#[must_use]
pub fn content(thread: u64, number: usize, length: usize) -> Vec<u8> {
    let mut random = Random::new(thread.rotate_left(48) ^ number as u64);
    let words = (0..length.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes());
    words.take(length).collect()
}

/// The container of a client.
#[must_use]
pub fn container(thread: u64) -> String {
    format!("c{thread}")
}

/// Its second one.
#[must_use]
pub fn extra(thread: u64) -> String {
    format!("extra{thread}")
}

/// The name of an object.
#[must_use]
pub fn object(name: usize) -> String {
    format!("o{name}")
}

/// Where the workload finds what it needs, in the guest.
#[derive(Debug, Clone)]
pub struct Place {
    /// The front door.
    pub address: SocketAddr,
    /// The file with the store's process id.
    pub pid_file: PathBuf,
    /// The disk that takes the marks.
    pub disk: PathBuf,
    /// Where on the disk the marks go.
    pub marks: u64,
}

/// Works until the plans of all clients are carried out.
///
/// # Errors
/// When the store refuses anything, or does not come back.
pub fn run(place: &Place, seed: u64, count: usize) -> Result<()> {
    let login = log_in(place.address)?;
    for thread in 0..THREADS {
        let mut client = Client::new(place, &login, thread);
        client.ask("PUT", &container(thread), "", &[], &[201, 202])?;
    }
    std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|thread| {
            let login = &login;
            scope.spawn(move || work(place, login, &Plan::new(seed, thread, count)))
        });
        // All of them are started before the first is waited for.
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

/// The account's path, and the header line with the token.
struct Login {
    account: String,
    token_line: String,
}

/// Logs in, as soon as that goes: the front door may answer before what it asks does.
fn log_in(address: SocketAddr) -> Result<Login> {
    let deadline = Instant::now() + OPERATION_TIME_MAX;
    loop {
        match try_log_in(address) {
            Ok(login) => return Ok(login),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    }
}

fn try_log_in(address: SocketAddr) -> Result<Login> {
    let headers = format!("X-Auth-User: {USER}\r\nX-Auth-Key: {KEY}\r\n");
    let head = Head {
        method: "GET",
        path: "/auth/v1.0",
        headers: &headers,
    };
    let answer = Connection::open(address)?.request(&head, &[], 0)?;
    ensure!(answer.status == 200, "{} to the login", answer.status);
    let token = answer.header("x-auth-token").context("no token")?;
    let url = answer.header("x-storage-url").context("no storage URL")?;
    let path = url.splitn(4, '/').nth(3).context("no path in the URL")?;
    Ok(Login {
        account: format!("/{path}"),
        token_line: format!("X-Auth-Token: {token}\r\n"),
    })
}

fn work(place: &Place, login: &Login, plan: &Plan) -> Result<()> {
    let marks = MarkWriter::open(&place.disk, place.marks)?;
    let mut client = Client::new(place, login, plan.thread);
    for (number, operation) in plan.operations.iter().enumerate() {
        if plan.thread == 0 && number == plan.operations.len() / 2 {
            kill(place)?;
        }
        client
            .perform(number, *operation)
            .with_context(|| format!("operation {number}, {operation:?}"))?;
        let mark = [plan.thread, u64::try_from(number)?].map(u64::to_le_bytes);
        marks.put(&mark.concat())?;
    }
    Ok(())
}

fn kill(place: &Place) -> Result<()> {
    let pid = std::fs::read_to_string(&place.pid_file).context("reading the process id")?;
    let pid = Pid::from_raw(pid.trim().parse()?).context("process 0")?;
    rustix::process::kill_process(pid, Signal::KILL).context("killing the store")
}

/// One client at work.
struct Client<'a> {
    place: &'a Place,
    login: &'a Login,
    thread: u64,
    connection: Option<Connection>,
}

impl<'a> Client<'a> {
    const fn new(place: &'a Place, login: &'a Login, thread: u64) -> Self {
        Self {
            place,
            login,
            thread,
            connection: None,
        }
    }

    fn perform(&mut self, number: usize, operation: Operation) -> Result<()> {
        let own = container(self.thread);
        let of = |name| format!("{own}/{}", object(name));
        match operation {
            Operation::Put { name, length } => {
                let body = content(self.thread, number, length);
                let header = format!("X-Object-Meta-Step: {number}\r\n");
                self.ask("PUT", &of(name), &header, &body, &[201])
            }
            Operation::Post { name } => {
                let header = format!("X-Object-Meta-Step: {number}\r\n");
                self.ask("POST", &of(name), &header, &[], &[202])
            }
            // 404: the first attempt went through, and its answer was lost.
            Operation::Delete { name } => self.ask("DELETE", &of(name), "", &[], &[204, 404]),
            Operation::PostContainer => {
                let header = format!("X-Container-Meta-Step: {number}\r\n");
                self.ask("POST", &own, &header, &[], &[204])
            }
            Operation::PutExtra => self.ask("PUT", &extra(self.thread), "", &[], &[201, 202]),
            Operation::DeleteExtra => self.ask("DELETE", &extra(self.thread), "", &[], &[204, 404]),
        }
    }

    /// Asks until the store has answered: it may be away for a while, and any request may be repeated.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
        wanted: &[u16],
    ) -> Result<()> {
        let path = format!("{}/{path}", self.login.account);
        let headers = format!("{}{headers}", self.login.token_line);
        let head = Head {
            method,
            path: &path,
            headers: &headers,
        };
        let deadline = Instant::now() + OPERATION_TIME_MAX;
        loop {
            let failed = match self.attempt(&head, body) {
                Ok(status) if wanted.contains(&status) => return Ok(()),
                // What fails now and may go through later.
                Ok(status) if status >= 500 => anyhow::anyhow!("{status} to {method} {path}"),
                Ok(status) => bail!("{status} to {method} {path}"),
                Err(error) => {
                    self.connection = None;
                    error.context(format!("{method} {path}"))
                }
            };
            if Instant::now() >= deadline {
                return Err(failed);
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn attempt(&mut self, head: &Head<'_>, body: &[u8]) -> Result<u16> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(self.place.address)?),
        };
        Ok(connection.request(head, body, 1)?.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_has_every_kind() {
        let plan = Plan::new(7, 1, 600);
        assert_eq!(plan.operations, Plan::new(7, 1, 600).operations);
        assert_ne!(plan.operations, Plan::new(8, 1, 600).operations);
        let mut kinds = [0; 7];
        for (operation, before) in plan.operations.iter().zip(&plan.states) {
            let is_there = |name: &usize| before.objects[*name].is_some();
            kinds[match operation {
                Operation::Put { length, .. } if *length > 64 << 10 => 0,
                Operation::Put { .. } => 1,
                Operation::Post { name } => {
                    assert!(is_there(name));
                    2
                }
                Operation::Delete { name } => {
                    assert!(is_there(name));
                    3
                }
                Operation::PostContainer => 4,
                Operation::PutExtra => 5,
                Operation::DeleteExtra => 6,
            }] += 1;
        }
        assert!(kinds.iter().all(|count| *count > 10), "{kinds:?}");
        assert_eq!(plan.states.len(), 601);
    }

    #[test]
    fn contents_differ() {
        assert_eq!(content(1, 2, 13).len(), 13);
        assert_ne!(content(1, 2, 64), content(2, 1, 64));
        assert_eq!(content(1, 2, 64)[..13], content(1, 2, 13));
    }
}
