//! What bare TCP on this machine does with messages of a workload's shape: the limit of any target.

use super::{Access, Workload};
use anyhow::{Context as _, Result, bail};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const HEAD_BYTES: usize = 48;
const BUFFER_BYTES: usize = 256 << 10;

/// The lengths of a request and of an answer.
#[derive(Debug, Clone, Copy)]
struct Shape {
    request: usize,
    answer: usize,
}

/// What bare TCP does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) per_second: f64,
    /// In microseconds.
    pub(crate) p99: f64,
}

/// Exchanges messages over so many connections as the workload has sessions, one thread at each end of each.
pub(crate) fn exchange(workload: &Workload, seconds: Duration) -> Result<Bare> {
    let bytes = usize::try_from(workload.block_bytes)?;
    let shape = match workload.access {
        Access::Read | Access::Mixed(_) => Shape {
            request: HEAD_BYTES,
            answer: HEAD_BYTES + bytes,
        },
        Access::Write => Shape {
            request: HEAD_BYTES + bytes,
            answer: HEAD_BYTES,
        },
    };
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    let end = Instant::now() + seconds;
    for _ in 0..workload.sessions {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        servers.push(std::thread::spawn(move || serve(server, shape)));
        let depth = workload.depth;
        clients.push(std::thread::spawn(move || ask(client, shape, depth, end)));
    }
    let mut times = Vec::new();
    for client in clients {
        times.extend(joined(client)?);
    }
    for server in servers {
        joined(server)?;
    }
    times.sort_unstable();
    let count = u32::try_from(times.len())?;
    let last = times.get(times.len().saturating_sub(1) * 99 / 100);
    Ok(Bare {
        per_second: f64::from(count) / seconds.as_secs_f64(),
        p99: last.map_or(0.0, |time| time.as_secs_f64() * 1e6),
    })
}

fn joined<T>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("a thread of the bare loopback panicked"),
    }
}

fn serve(mut socket: TcpStream, shape: Shape) -> Result<()> {
    let (mut incoming, outgoing) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut have = 0;
    loop {
        let count = socket.read(&mut incoming)?;
        if count == 0 {
            return Ok(());
        }
        have += count;
        send(&mut socket, &outgoing, have / shape.request * shape.answer)?;
        have %= shape.request;
    }
}

fn send(socket: &mut TcpStream, bytes: &[u8], count: usize) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let step = left.min(bytes.len());
        socket.write_all(&bytes[..step])?;
        left -= step;
    }
    Ok(())
}

/// How long each exchange took.
fn ask(mut socket: TcpStream, shape: Shape, depth: usize, end: Instant) -> Result<Vec<Duration>> {
    let (mut incoming, outgoing) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let (mut have, mut times) = (0, Vec::new());
    let mut asked: VecDeque<Instant> = core::iter::repeat_n(Instant::now(), depth).collect();
    send(&mut socket, &outgoing, shape.request * depth)?;
    while Instant::now() < end {
        let count = socket.read(&mut incoming)?;
        if count == 0 {
            bail!("the bare loopback ended early");
        }
        have += count;
        let answered = have / shape.answer;
        have %= shape.answer;
        let now = Instant::now();
        for _ in 0..answered {
            times.extend(asked.pop_front().map(|asked| now - asked));
            asked.push_back(now);
        }
        send(&mut socket, &outgoing, shape.request * answered)?;
    }
    // The server may be in the middle of an answer; it ends when it reads the end of the stream.
    socket
        .shutdown(std::net::Shutdown::Write)
        .context("ending the bare loopback")?;
    while socket.read(&mut incoming)? > 0 {}
    Ok(times)
}
