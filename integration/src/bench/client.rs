//! One session of the load: it logs in with this project's initiator, then keeps so many commands in flight.
//!
//! After the login it makes and takes PDUs by itself: a task's tag is the number of its slot, data lands where it
//! belongs without another copy, and everything that is due goes out in one write. So the client costs little, and what
//! is measured is the target.

use super::contender::Endpoint;
use super::{Access, Workload};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_block_iscsi::chap::Challenge;
use onggi_block_iscsi::initiator::{Initiator, InitiatorEvent, InitiatorTimes, LoginOptions};
use onggi_block_iscsi::login::Offer;
use onggi_block_iscsi::{Isid, LunField, Negotiated, SessionKind};
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

const BHS_BYTES: usize = 48;
const INCOMING_BYTES: usize = 64 << 10;
/// The pieces one write gathers.
const GATHER_MAX: usize = 512;
/// A target that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

const SCSI_COMMAND: u8 = 0x01;
const DATA_OUT: u8 = 0x05;
const NOP_IN: u8 = 0x20;
const SCSI_RESPONSE: u8 = 0x21;
const DATA_IN: u8 = 0x25;
const R2T: u8 = 0x31;
const FINAL: u8 = 0x80;
const HAS_STATUS: u8 = 0x01;
const NO_TAG: u32 = u32::MAX;

/// What a session's run gave.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// All requests, in the warm-up too.
    pub(crate) requests: u64,
    /// Of the counted ones, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    data: Vec<u8>,
    since: Instant,
}

/// A piece to be sent.
#[derive(Debug)]
enum Piece {
    Head([u8; BHS_BYTES]),
    Data(usize, Range<usize>),
}

/// The data of a Data-In, or something to be thrown away, that is still coming.
#[derive(Debug)]
struct Body {
    /// Where it belongs, if anybody wants it.
    place: Option<(usize, usize)>,
    left: usize,
    padding: usize,
    /// The slot that is finished when all has come, and its status.
    ends: Option<(usize, u8)>,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    socket: TcpStream,
    agreed: Negotiated,
    lun: [u8; 8],
    workload: Workload,
    span: (u64, u64),
    next: u64,
    random: u64,
    cmd_sn: u32,
    exp_stat_sn: u32,
    slots: Vec<Slot>,
    pieces: Vec<Piece>,
    incoming: Box<[u8]>,
    filled: Range<usize>,
    body: Option<Body>,
}

/// What a session is asked to do with a slot that is free again.
#[derive(Debug, Clone, Copy)]
enum Until {
    End(Instant),
    SpanIsDone,
}

impl Session {
    /// Logs in; the session works on the bytes from the first of `span` on, so many as its second says.
    pub(crate) fn log_in(
        endpoint: &Endpoint,
        workload: Workload,
        span: (u64, u64),
        number: u64,
    ) -> Result<Self> {
        let mut socket = TcpStream::connect(endpoint.portal).context("connecting")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let [.., qualifier] = number.to_be_bytes();
        let options = LoginOptions {
            initiator: format!("iqn.2026-11.org.onggi:bench-{number}").parse()?,
            kind: SessionKind::Normal {
                target: endpoint.iqn.parse()?,
            },
            isid: Isid::from_random([0xbe, 0x4c, qualifier], 0),
            credentials: None,
            target_credentials: None,
            challenge: Challenge::new([0; 33]),
            offer: Offer::default(),
        };
        let agreed = log_in(&mut socket, options)?;
        ensure!(
            !agreed.has_header_digest && !agreed.has_data_digest,
            "the target wants digests"
        );
        let mut random = 0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bytes = usize::try_from(workload.block_bytes)?;
        let slots = (0..workload.depth).map(|_| Slot {
            data: (0..bytes / 8)
                .flat_map(|_| xorshift(&mut random).to_ne_bytes())
                .collect(),
            since: Instant::now(),
        });
        Ok(Self {
            lun: LunField::from_number(endpoint.lun)
                .context("the LUN is too large")?
                .0,
            agreed,
            slots: slots.collect(),
            socket,
            workload,
            span,
            next: 0,
            random,
            cmd_sn: 1,
            exp_stat_sn: 0,
            pieces: Vec::new(),
            incoming: vec![0; INCOMING_BYTES].into_boxed_slice(),
            filled: 0..0,
            body: None,
        })
    }

    /// Works until then; what was sent after `counted_from` and answered in time is counted.
    pub(crate) fn run_until(&mut self, counted_from: Instant, end: Instant) -> Result<Ran> {
        self.clear_unit_attentions()?;
        let mut ran = Ran::default();
        self.run(Until::End(end), &mut |since, now| {
            ran.requests += 1;
            if since >= counted_from && now <= end {
                let nanoseconds = now.duration_since(since).as_nanos();
                ran.latencies
                    .push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
            }
        })?;
        Ok(ran)
    }

    /// Goes through the span once.
    pub(crate) fn run_once(&mut self) -> Result<()> {
        self.clear_unit_attentions()?;
        self.run(Until::SpanIsDone, &mut |_, _| {})
    }

    /// TEST UNIT READY until there is nothing left to tell.
    fn clear_unit_attentions(&mut self) -> Result<()> {
        for _ in 0..8 {
            let head = self.command(0, [0; 16], 0, 0);
            self.pieces.push(Piece::Head(head));
            self.flush()?;
            let mut status = None;
            while status.is_none() {
                self.receive()?;
                self.parse(&mut |_, answered| status = Some(answered))?;
            }
            if status == Some(0) {
                return Ok(());
            }
        }
        bail!("the unit does not become ready")
    }

    fn run(&mut self, until: Until, done: &mut impl FnMut(Instant, Instant)) -> Result<()> {
        let mut in_flight = 0;
        for slot in 0..self.slots.len() {
            in_flight += usize::from(self.submit(slot, until));
        }
        let mut ended = Vec::new();
        while in_flight > 0 {
            self.flush()?;
            self.receive()?;
            self.parse(&mut |slot, status| ended.push((slot, status)))?;
            for (slot, status) in ended.drain(..) {
                ensure!(status == 0, "a command ended with status {status:02x}h");
                let now = Instant::now();
                done(self.slots[slot].since, now);
                if !self.submit(slot, until) {
                    in_flight -= 1;
                }
            }
        }
        Ok(())
    }

    // False when there is nothing more to do.
    fn submit(&mut self, slot: usize, until: Until) -> bool {
        let block = u64::from(self.workload.block_bytes);
        let (first, length) = self.span;
        let blocks = length / block;
        let now = Instant::now();
        let is_over = match until {
            Until::End(end) => now >= end,
            Until::SpanIsDone => self.next >= blocks,
        };
        if is_over {
            return false;
        }
        let index = if self.workload.is_random {
            xorshift(&mut self.random) % blocks
        } else {
            self.next % blocks
        };
        self.next += 1;
        let writes = match self.workload.access {
            Access::Read => false,
            Access::Write => true,
            Access::Mixed(reads) => xorshift(&mut self.random) % 100 >= reads,
        };
        self.slots[slot].since = now;
        let mut cdb = [0; 16];
        // READ(16), WRITE(16), blocks of 512 bytes.
        cdb[0] = if writes { 0x8a } else { 0x88 };
        cdb[2..10].copy_from_slice(&((first + index * block) / 512).to_be_bytes());
        cdb[10..14].copy_from_slice(&(self.workload.block_bytes / 512).to_be_bytes());
        let immediate = if writes && self.agreed.has_immediate_data {
            self.workload
                .block_bytes
                .min(self.agreed.first_burst_bytes_max)
                .min(self.agreed.send_data_segment_bytes_max)
        } else {
            0
        };
        let direction = if writes { 0x20 } else { 0x40 };
        let mut head = self.command(slot, cdb, direction, self.workload.block_bytes);
        head[5..8].copy_from_slice(&immediate.to_be_bytes()[1..]);
        self.pieces.push(Piece::Head(head));
        if immediate > 0 {
            self.pieces.push(Piece::Data(slot, 0..size(immediate)));
        }
        true
    }

    fn command(
        &mut self,
        slot: usize,
        cdb: [u8; 16],
        direction: u8,
        bytes: u32,
    ) -> [u8; BHS_BYTES] {
        let mut head = [0; BHS_BYTES];
        head[0] = SCSI_COMMAND;
        // A simple task.
        head[1] = FINAL | direction | 1;
        head[8..16].copy_from_slice(&self.lun);
        put(&mut head, 16, u32::try_from(slot).unwrap_or(NO_TAG));
        put(&mut head, 20, bytes);
        put(&mut head, 24, self.cmd_sn);
        put(&mut head, 28, self.exp_stat_sn);
        head[32..48].copy_from_slice(&cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        head
    }

    fn flush(&mut self) -> Result<()> {
        let slots = &self.slots;
        for pieces in self.pieces.chunks(GATHER_MAX) {
            let mut slices: Vec<IoSlice<'_>> = pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Head(head) => IoSlice::new(head),
                    Piece::Data(slot, range) => IoSlice::new(&slots[*slot].data[range.clone()]),
                })
                .collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                let sent = self.socket.write_vectored(rest).context("sending")?;
                IoSlice::advance_slices(&mut rest, sent);
            }
        }
        self.pieces.clear();
        Ok(())
    }

    // Reads what has come: the rest of a body to where it belongs, what follows into the buffer.
    fn receive(&mut self) -> Result<()> {
        self.incoming.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        let wanted = match &self.body {
            Some(Body {
                place: Some((slot, offset)),
                left,
                ..
            }) if self.filled.is_empty() => Some((*slot, *offset, *left)),
            _ => None,
        };
        let room = &mut self.incoming[self.filled.end..];
        let Some((slot, offset, left)) = wanted else {
            let count = self.socket.read(room).context("receiving")?;
            ensure!(count > 0, "the target closed the connection");
            self.filled.end += count;
            return Ok(());
        };
        let place = &mut self.slots[slot].data[offset..offset + left];
        let slices = &mut [IoSliceMut::new(place), IoSliceMut::new(room)];
        let count = self.socket.read_vectored(slices).context("receiving")?;
        ensure!(count > 0, "the target closed the connection");
        let direct = count.min(left);
        self.filled.end += count - direct;
        if let Some(body) = &mut self.body {
            body.left -= direct;
            body.place = Some((slot, offset + direct));
        }
        Ok(())
    }

    // Takes what the buffer holds; tells which slots ended with which status.
    fn parse(&mut self, ended: &mut impl FnMut(usize, u8)) -> Result<()> {
        loop {
            if let Some(mut body) = self.body.take() {
                self.take_body(&mut body);
                if body.left + body.padding > 0 {
                    self.body = Some(body);
                    return Ok(());
                }
                if let Some((slot, status)) = body.ends {
                    ended(slot, status);
                }
            }
            let Some(head) = self.incoming[self.filled.clone()].first_chunk::<BHS_BYTES>() else {
                return Ok(());
            };
            let head = *head;
            self.filled.start += BHS_BYTES;
            self.body = Some(self.take_head(&head)?);
        }
    }

    fn take_body(&mut self, body: &mut Body) {
        let count = body.left.min(self.filled.len());
        let from = self.filled.start..self.filled.start + count;
        if let Some((slot, offset)) = body.place {
            self.slots[slot].data[offset..offset + count].copy_from_slice(&self.incoming[from]);
            body.place = Some((slot, offset + count));
        }
        body.left -= count;
        self.filled.start += count;
        if body.left == 0 {
            let skipped = body.padding.min(self.filled.len());
            body.padding -= skipped;
            self.filled.start += skipped;
        }
    }

    fn take_head(&mut self, head: &[u8; BHS_BYTES]) -> Result<Body> {
        let bytes = size(get(head, 4) & 0x00ff_ffff);
        let slot = size(get(head, 16));
        let mut body = Body {
            place: None,
            left: bytes,
            padding: bytes.wrapping_neg() & 3,
            ends: None,
        };
        let opcode = head[0] & 0x3f;
        if opcode == NOP_IN {
            return Ok(body);
        }
        ensure!(slot < self.slots.len(), "an answer to nothing: {head:02x?}");
        match opcode {
            DATA_IN => {
                let offset = size(get(head, 40));
                let is_inside = offset + bytes <= self.slots[slot].data.len();
                ensure!(is_inside, "data beyond what was asked for: {head:02x?}");
                body.place = Some((slot, offset));
                if head[1] & HAS_STATUS != 0 {
                    self.exp_stat_sn = get(head, 24).wrapping_add(1);
                    body.ends = Some((slot, head[3]));
                }
            }
            SCSI_RESPONSE => {
                self.exp_stat_sn = get(head, 24).wrapping_add(1);
                body.ends = Some((slot, head[3]));
            }
            R2T => self.send_data(slot, head)?,
            _ => bail!("an unexpected PDU: {head:02x?}"),
        }
        Ok(body)
    }

    // Queues the Data-Out that an R2T asks for.
    fn send_data(&mut self, slot: usize, r2t: &[u8; BHS_BYTES]) -> Result<()> {
        let (mut offset, desired) = (get(r2t, 40), get(r2t, 44));
        let end = offset.checked_add(desired).context("a wild R2T")?;
        ensure!(size(end) <= self.slots[slot].data.len(), "a wild R2T");
        let mut data_sn = 0;
        while offset < end {
            let bytes = (end - offset).min(self.agreed.send_data_segment_bytes_max);
            let mut head = [0; BHS_BYTES];
            head[0] = DATA_OUT;
            head[1] = if offset + bytes == end { FINAL } else { 0 };
            head[5..8].copy_from_slice(&bytes.to_be_bytes()[1..]);
            head[8..24].copy_from_slice(&r2t[8..24]);
            put(&mut head, 28, self.exp_stat_sn);
            put(&mut head, 36, data_sn);
            put(&mut head, 40, offset);
            self.pieces.push(Piece::Head(head));
            self.pieces
                .push(Piece::Data(slot, size(offset)..size(offset + bytes)));
            data_sn += 1;
            offset += bytes;
        }
        Ok(())
    }
}

/// Logs in with the pure machine; nothing is left in it afterwards.
fn log_in(socket: &mut TcpStream, options: LoginOptions) -> Result<Negotiated> {
    let begin = Instant::now();
    let mut machine = Initiator::new(options, InitiatorTimes::default(), Duration::ZERO);
    let mut bytes = [0; 4096];
    loop {
        while let Some(pdu) = machine.poll_transmit() {
            socket
                .write_all(&pdu.to_vec())
                .context("sending the login")?;
        }
        while let Some(event) = machine.poll_event() {
            match event {
                InitiatorEvent::LoggedIn(agreed) => return Ok(agreed),
                InitiatorEvent::Failed(error) => return Err(error).context("logging in"),
                _ => {}
            }
        }
        let count = socket.read(&mut bytes).context("receiving the login")?;
        ensure!(count > 0, "the target closed the connection during login");
        machine.receive(&bytes[..count], begin.elapsed());
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn put(head: &mut [u8; BHS_BYTES], at: usize, word: u32) {
    head[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

fn get(head: &[u8; BHS_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}
