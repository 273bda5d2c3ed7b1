//! What bare TCP on this machine does with messages of a workload's shape: the limit of any target.

use super::{Access, Workload};
use anyhow::{Context as _, Result, bail};
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

/// Exchanges in a second over so many connections as the workload has sessions, one thread at each end of each.
pub(crate) fn exchanges_per_second(workload: &Workload, seconds: Duration) -> Result<f64> {
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
    let mut exchanges = 0;
    for client in clients {
        exchanges += joined(client)?;
    }
    for server in servers {
        joined(server)?;
    }
    Ok(f64::from(exchanges) / seconds.as_secs_f64())
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

fn ask(mut socket: TcpStream, shape: Shape, depth: usize, end: Instant) -> Result<u32> {
    let (mut incoming, outgoing) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let (mut have, mut exchanges) = (0, 0);
    send(&mut socket, &outgoing, shape.request * depth)?;
    while Instant::now() < end {
        let count = socket.read(&mut incoming)?;
        if count == 0 {
            bail!("the bare loopback ended early");
        }
        have += count;
        let answered = have / shape.answer;
        have %= shape.answer;
        exchanges += u32::try_from(answered)?;
        send(&mut socket, &outgoing, shape.request * answered)?;
    }
    // The server may be in the middle of an answer; it ends when it reads the end of the stream.
    socket
        .shutdown(std::net::Shutdown::Write)
        .context("ending the bare loopback")?;
    while socket.read(&mut incoming)? > 0 {}
    Ok(exchanges)
}
