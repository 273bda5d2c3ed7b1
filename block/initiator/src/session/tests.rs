//! The session and the disk against the project's own target machine behind a real socket, with a disk in memory.

use crate::disk::{Disk, DiskError};
use crate::session::{Session, SessionError, SessionTimes};
use crate::spec::{ChapCredentials, ConnectionSpec};
use bytes::Bytes;
use onggi_block_iscsi::chap::{Challenge, ChapAccount};
use onggi_block_iscsi::connection::{
    AccessAnswer, Completion, Connection, Event, Grant, TargetConfig,
};
use onggi_block_iscsi::{Command, Tsih};
use onggi_common_units::{Secret, Uuid};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BLOCKS: usize = 16 << 10;

/// What all connections of the target share.
struct Target {
    disk: Mutex<Vec<u8>>,
    flushes: AtomicU32,
    logins: AtomicU32,
    /// After so many commands the connection is cut without an answer; counts down.
    cut_after: AtomicU32,
    is_attention_due: AtomicBool,
    is_gone: AtomicBool,
    is_unknown: AtomicBool,
}

fn serve(secret: &'static str) -> (Arc<Target>, String) {
    let target = Arc::new(Target {
        disk: Mutex::new(vec![0; BLOCKS * 512]),
        flushes: AtomicU32::new(0),
        logins: AtomicU32::new(0),
        cut_after: AtomicU32::new(u32::MAX),
        is_attention_due: AtomicBool::new(false),
        is_gone: AtomicBool::new(false),
        is_unknown: AtomicBool::new(false),
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let portal = listener.local_addr().unwrap().to_string();
    let shared = Arc::clone(&target);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve_one(&shared, stream.unwrap(), secret));
        }
    });
    (target, portal)
}

fn serve_one(target: &Target, mut stream: TcpStream, secret: &str) {
    if target.is_gone.load(Ordering::SeqCst) {
        return;
    }
    let mut connection = Connection::new(TargetConfig::default(), Duration::ZERO);
    let mut buffer = vec![0; 1 << 16];
    loop {
        while let Some(event) = connection.poll_event() {
            match event {
                Event::AccessRequest(_) if target.is_unknown.load(Ordering::SeqCst) => {
                    connection.answer_access(AccessAnswer::NotFound, Duration::ZERO);
                }
                Event::AccessRequest(_) => {
                    let grant = Grant {
                        tsih: Tsih(1),
                        portal_group: 1,
                        alias: None,
                        is_proof_wanted: !secret.is_empty(),
                        challenge: Challenge::new([3; 33]),
                    };
                    connection.answer_access(AccessAnswer::Allow(grant), Duration::ZERO);
                }
                Event::Claim { user } => {
                    let account = ChapAccount {
                        user: "cinder".to_owned(),
                        secret: Secret::new(secret),
                        mutual: None,
                    };
                    let accounts = if user == "cinder" {
                        vec![account]
                    } else {
                        vec![]
                    };
                    connection.answer_claim(accounts, Duration::ZERO);
                }
                Event::LoggedIn(_) => {
                    target.logins.fetch_add(1, Ordering::SeqCst);
                }
                Event::Command(command) => {
                    let left = target.cut_after.load(Ordering::SeqCst);
                    if left == 0 {
                        target.cut_after.store(u32::MAX, Ordering::SeqCst);
                        return;
                    }
                    if left != u32::MAX {
                        target.cut_after.store(left - 1, Ordering::SeqCst);
                    }
                    let completion = target.carry_out(&command);
                    connection.complete(command.task, completion);
                }
                _ => {}
            }
        }
        while let Some(pdu) = connection.poll_transmit() {
            if stream.write_all(&pdu.to_vec()).is_err() {
                return;
            }
        }
        if connection.is_closed() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => connection.receive(&buffer[..count], Duration::ZERO),
        }
    }
}

impl Target {
    fn carry_out(&self, command: &Command) -> Completion {
        if self.is_attention_due.swap(false, Ordering::SeqCst) {
            // Unit attention: power on.
            let sense = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0];
            return Completion::failed(2, Bytes::copy_from_slice(&sense));
        }
        let cdb = command.cdb.as_slice();
        let lba = u64::from_be_bytes(cdb[2..10].try_into().unwrap());
        let count = u32::from_be_bytes(cdb[10..14].try_into().unwrap());
        let start = usize::try_from(lba % BLOCKS as u64).unwrap() * 512;
        let bytes = usize::try_from(count).unwrap() * 512;
        let mut disk = self.disk.lock().unwrap();
        match cdb[0] {
            0x00 => Completion::taken(0),
            0x9e => {
                let mut data = vec![0; 32];
                data[..8].copy_from_slice(&(BLOCKS as u64 - 1).to_be_bytes());
                data[8..12].copy_from_slice(&512u32.to_be_bytes());
                Completion::data(data.into())
            }
            0x12 => {
                let mut page = vec![0; 64];
                page[1] = cdb[2];
                page[3] = 60;
                if cdb[2] == 0xb2 {
                    page[5] = 0x40;
                }
                Completion::data(page.into())
            }
            0x88 => Completion::data(Bytes::copy_from_slice(&disk[start..start + bytes])),
            0x8a => {
                disk[start..start + bytes].copy_from_slice(&command.data);
                Completion::taken(command.data.len() as u64)
            }
            0x91 => {
                self.flushes.fetch_add(1, Ordering::SeqCst);
                Completion::taken(0)
            }
            0x93 => {
                for block in disk[start..start + bytes].chunks_mut(512) {
                    block.copy_from_slice(&command.data);
                }
                Completion::taken(512)
            }
            _ => Completion::failed(
                2,
                Bytes::from_static(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0]),
            ),
        }
    }
}

fn spec(portals: &[&str], secret: &str) -> ConnectionSpec {
    ConnectionSpec {
        volume: Uuid::from_bytes([1; 16]),
        attachment: Uuid::from_bytes([2; 16]),
        portals: portals.iter().map(|portal| (*portal).to_owned()).collect(),
        iqn: "iqn.2026-01.org.example:vol".to_owned(),
        lun: 1,
        initiator_name: "iqn.2026-01.org.example:host".to_owned(),
        chap: Some(ChapCredentials {
            user: "cinder".to_owned(),
            secret: Secret::new(secret),
        }),
        mutual_chap: None,
        is_read_only: false,
    }
}

fn short() -> SessionTimes {
    SessionTimes {
        replay: Duration::from_secs(30),
        ..SessionTimes::default()
    }
}

fn pattern(bytes: usize, seed: usize) -> Bytes {
    (0..bytes)
        .map(|n| u8::try_from((n * 13 + n / 512 + seed) % 256).unwrap())
        .collect()
}

#[test]
fn a_disk_is_what_the_target_says_and_keeps_what_is_written() {
    let (target, portal) = serve("secretsecret12");
    // The first portal does not answer.
    let session =
        Session::open(&spec(&["127.0.0.1:1", &portal], "secretsecret12"), short()).unwrap();
    let disk = Disk::open(session).unwrap();
    assert_eq!(
        (disk.size().bytes(), disk.block_bytes()),
        (BLOCKS as u64 * 512, 512)
    );
    let data = pattern(1 << 20, 1);
    disk.write(1024, data.clone()).unwrap();
    disk.flush().unwrap();
    assert!(disk.read(1024, 1 << 20).unwrap() == data);
    assert_eq!(target.flushes.load(Ordering::SeqCst), 1);
    assert!(disk.can_zero());
    disk.zero(1024, 4096).unwrap();
    assert!(disk.read(1024, 4096).unwrap().iter().all(|byte| *byte == 0));
    for (offset, length) in [
        (1, 512),
        (0, 100),
        (BLOCKS as u64 * 512, 512),
        (u64::MAX - 511, 512),
    ] {
        assert!(
            matches!(disk.read(offset, length), Err(DiskError::Range { .. })),
            "{offset}"
        );
    }
}

#[test]
fn a_wrong_secret_and_a_dead_portal_are_told_at_once() {
    let (_target, portal) = serve("secretsecret12");
    let refused = Session::open(&spec(&[&portal], "secretsecret13"), short()).unwrap_err();
    assert!(
        refused.to_string().contains("authentication failure"),
        "{refused}"
    );
    let dead = Session::open(&spec(&["127.0.0.1:1"], "secretsecret12"), short()).unwrap_err();
    assert!(matches!(dead, SessionError::Connect { .. }), "{dead}");
    let none = Session::open(&spec(&[], "secretsecret12"), short()).unwrap_err();
    assert!(matches!(none, SessionError::Connect { .. }), "{none}");
}

#[test]
fn what_was_not_answered_is_sent_again_after_a_broken_connection() {
    let (target, portal) = serve("");
    let disk =
        Disk::open(Session::open(&spec(&[&portal], "secretsecret12"), short()).unwrap()).unwrap();
    let disk = Arc::new(disk);
    // Cut again and again while many writes are under way; every one must be there in the end.
    let writers: Vec<_> = (0..8usize)
        .map(|writer| {
            let disk = Arc::clone(&disk);
            std::thread::spawn(move || {
                for round in 0..16usize {
                    let offset = u64::try_from((writer * 16 + round) * 32_768).unwrap();
                    disk.write(offset, pattern(32_768, writer + round)).unwrap();
                }
            })
        })
        .collect();
    for cut in [5, 11, 3] {
        target.cut_after.store(cut, Ordering::SeqCst);
        let logins = target.logins.load(Ordering::SeqCst);
        while !writers.iter().all(std::thread::JoinHandle::is_finished)
            && target.logins.load(Ordering::SeqCst) == logins
        {
            std::thread::yield_now();
        }
    }
    for writer in writers {
        writer.join().unwrap();
    }
    target.cut_after.store(u32::MAX, Ordering::SeqCst);
    assert!(target.logins.load(Ordering::SeqCst) > 1);
    for writer in 0..8usize {
        for round in 0..16usize {
            let offset = u64::try_from((writer * 16 + round) * 32_768).unwrap();
            assert!(disk.read(offset, 32_768).unwrap() == pattern(32_768, writer + round));
        }
    }
}

#[test]
fn a_unit_attention_is_not_an_error() {
    let (target, portal) = serve("");
    let disk =
        Disk::open(Session::open(&spec(&[&portal], "secretsecret12"), short()).unwrap()).unwrap();
    target.is_attention_due.store(true, Ordering::SeqCst);
    disk.write(0, pattern(512, 0)).unwrap();
    assert!(!target.is_attention_due.load(Ordering::SeqCst));
}

#[test]
fn a_command_waits_for_a_target_that_is_gone_only_so_long() {
    let (target, portal) = serve("");
    let times = SessionTimes {
        replay: Duration::from_millis(300),
        ..SessionTimes::default()
    };
    let disk =
        Disk::open(Session::open(&spec(&[&portal], "secretsecret12"), times).unwrap()).unwrap();
    target.is_gone.store(true, Ordering::SeqCst);
    target.cut_after.store(0, Ordering::SeqCst);
    let error = disk.read(0, 512).unwrap_err();
    assert!(
        matches!(error, DiskError::Session(SessionError::TimedOut { .. })),
        "{error}"
    );
    // And it is of use again once the target is back.
    target.is_gone.store(false, Ordering::SeqCst);
    assert_eq!(disk.read(0, 512).unwrap().len(), 512);
}

#[test]
fn a_target_that_does_not_know_us_any_more_is_given_up() {
    let (target, portal) = serve("");
    let times = SessionTimes {
        replay: Duration::from_millis(300),
        ..SessionTimes::default()
    };
    // The second portal never answers: that hides nothing.
    let session = Session::open(&spec(&[&portal, "127.0.0.1:1"], "secretsecret12"), times).unwrap();
    let disk = Disk::open(session).unwrap();
    target.is_unknown.store(true, Ordering::SeqCst);
    target.cut_after.store(0, Ordering::SeqCst);
    disk.read(0, 512).unwrap_err();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !disk.is_given_up() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    // It stays so, and says so at once, even when the target would take us back.
    target.is_unknown.store(false, Ordering::SeqCst);
    let error = disk.read(0, 512).unwrap_err();
    assert!(
        matches!(error, DiskError::Session(SessionError::Ended)),
        "{error}"
    );
}
