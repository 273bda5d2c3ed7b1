//! The target as a process that is killed: what it served is back before it listens, and sessions go on.

use crate::harness::{SECRET, USER};
use onggi_block_initiator::session::{Request, Session, SessionTimes};
use onggi_block_initiator::{ChapCredentials, ConnectionSpec};
use onggi_block_iscsi::pdu::CdbBytes;
use onggi_common_units::{Secret, Uuid};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// The example `serve`, as a process of its own; cargo builds it with the tests.
struct Process(Child);

impl Process {
    #[expect(
        clippy::disallowed_methods,
        reason = "the process outlives the call; Run waits for the end of what it starts"
    )]
    fn start(state_dir: &Path, portal: &str) -> Self {
        let mut program: PathBuf = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/serve");
        let mut child = std::process::Command::new(&program)
            .arg(state_dir)
            .args([portal, "64", &format!("{USER}:{SECRET}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(line.contains("\"lun\":1"), "{line:?}");
        Self(child)
    }

    /// As `kill -9` does.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn connection(portal: &str) -> ConnectionSpec {
    ConnectionSpec {
        volume: Uuid::from_bytes([0x5e; 16]),
        attachment: Uuid::from_bytes([1; 16]),
        portals: vec![portal.to_owned()],
        iqn: "iqn.2026-11.org.onggi:serve".to_owned(),
        lun: 1,
        initiator_name: "iqn.2026-11.org.onggi:restart".to_owned(),
        chap: Some(ChapCredentials {
            user: USER.to_owned(),
            secret: Secret::new(SECRET),
        }),
        mutual_chap: None,
        is_read_only: false,
    }
}

fn request(opcode: u8, lba: u32, data: &[u8]) -> Request {
    let mut cdb = vec![opcode, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.extend([0, 0, 8, 0]);
    Request {
        cdb: CdbBytes::new(&cdb).unwrap(),
        read_bytes: if opcode == 0x28 { 4_096 } else { 0 },
        data: bytes::Bytes::copy_from_slice(data),
    }
}

#[test]
fn a_session_outlives_a_target_that_is_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was free a moment ago: the restarted target must have the same one.
    let portal = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let mut target = Process::start(dir.path(), &portal);
    let session = Session::open(&connection(&portal), SessionTimes::default()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut rounds = 0u32;
            while rounds < 20 || !stop.load(Ordering::Relaxed) {
                let (lba, byte) = (rounds % 64 * 8, u8::try_from(rounds % 251).unwrap());
                for (opcode, data) in [(0x2a, vec![byte; 4_096]), (0x28, Vec::new())] {
                    let reply = session.execute(request(opcode, lba, &data)).unwrap();
                    assert_eq!(reply.status, 0, "{:x?}", reply.sense);
                    assert!(opcode == 0x2a || reply.data == vec![byte; 4_096]);
                }
                rounds += 1;
            }
            rounds
        });
        for _ in 0..3 {
            target.kill();
            target = Process::start(dir.path(), &portal);
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    });
}
