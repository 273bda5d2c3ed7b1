//! A target in a temporary directory, and a blocking initiator on the pure machine.

use bytes::Bytes;
use onggi_block_iscsi::chap::{Challenge, ChapPair as Chap};
use onggi_block_iscsi::connection::TargetRecord;
use onggi_block_iscsi::initiator::{
    CommandOutcome, InitiatorError, InitiatorEvent, InitiatorTimes, LoginOptions, Submission,
};
use onggi_block_iscsi::login::Offer;
use onggi_block_iscsi::pdu::{CdbBytes, TaskManagementFunction};
use onggi_block_iscsi::{Initiator, Isid, LunField, SessionKind};
use onggi_block_medium::{ExtentMap, MediumKind, MediumSpec};
use onggi_block_target::{Access, ChapPair, Client, ExportSpec, Options, Target};
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use onggi_common_units::{ByteCount, Secret, Uuid};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

pub(crate) const HOST: &str = "iqn.2026-11.org.onggi:host";
pub(crate) const USER: &str = "user";
pub(crate) const SECRET: &str = "a-secret-of-the-attachment";
pub(crate) const MIB: u64 = 64;
const LIMIT: Duration = Duration::from_secs(20);

/// A running target and its client.
pub(crate) struct Served {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) target: Option<Target>,
    pub(crate) client: Client,
    pub(crate) portal: SocketAddr,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(adapt: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(vec!["127.0.0.1:0".parse().unwrap()], dir.path().to_owned());
        options.data_threads = 2;
        adapt(&mut options);
        let target = Target::start(&options).unwrap();
        let portal = target.portals()[0].address;
        let client = Client::new(&options.socket);
        Self {
            dir,
            target: Some(target),
            client,
            portal,
        }
    }

    /// One target with one volume under CHAP.
    pub(crate) fn with_volume() -> (Self, ExportSpec) {
        let served = Self::start();
        let spec = spec(served.dir.path(), 1);
        served.client.put_export(&spec).unwrap();
        (served, spec)
    }

    pub(crate) fn login(&self, spec: &ExportSpec) -> Session {
        Session::open(self.portal, Who::default(), Some(&spec.iqn)).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            target.stop();
        }
    }
}

pub(crate) fn chap() -> ChapPair {
    ChapPair {
        user: USER.to_owned(),
        secret: Secret::new(SECRET),
    }
}

pub(crate) fn access(number: u8) -> Access {
    Access {
        attachment: Uuid::from_bytes([number; 16]),
        initiator: None,
        chap: Some(chap()),
        mutual: None,
    }
}

pub(crate) fn medium(path: &Path, mib: u64) -> MediumSpec {
    let extents = ExtentMap::linear(ByteCount::from_mib(mib)).unwrap();
    MediumSpec {
        path: path.to_owned(),
        kind: MediumKind::File,
        extents,
        fence: None,
    }
}

pub(crate) fn spec(dir: &Path, number: u8) -> ExportSpec {
    let path = dir.join(format!("volume-{number}.img"));
    std::fs::File::create(&path)
        .unwrap()
        .set_len((2 * MIB) << 20)
        .unwrap();
    ExportSpec {
        iqn: format!("iqn.2026-11.org.onggi:volume-{number}"),
        lun: 1,
        volume: Uuid::from_random([number; 16]),
        medium: medium(&path, MIB),
        block_size: 512,
        read_only: false,
        access: vec![access(number)],
    }
}

/// Who logs in.
pub(crate) struct Who {
    pub(crate) initiator: &'static str,
    pub(crate) isid: u8,
    pub(crate) secret: Option<&'static str>,
}

impl Default for Who {
    fn default() -> Self {
        Self {
            initiator: HOST,
            isid: 1,
            secret: Some(SECRET),
        }
    }
}

/// A logged-in session that does one thing at a time.
pub(crate) struct Session {
    machine: Initiator,
    socket: TcpStream,
    clock: SystemClock,
}

impl Session {
    pub(crate) fn open(
        portal: SocketAddr,
        who: Who,
        target: Option<&str>,
    ) -> Result<Self, InitiatorError> {
        let kind = match target {
            Some(target) => SessionKind::Normal {
                target: target.parse().unwrap(),
            },
            None => SessionKind::Discovery,
        };
        let mut random = [0; 33];
        SystemEntropy.fill(&mut random);
        let options = LoginOptions {
            initiator: who.initiator.parse().unwrap(),
            kind,
            isid: Isid([0x80, 0, 0, 0, 0, who.isid]),
            credentials: who.secret.map(|secret| Chap {
                user: USER.to_owned(),
                secret: Secret::new(secret),
            }),
            target_credentials: None,
            challenge: Challenge::new(random),
            offer: Offer::default(),
        };
        let clock = SystemClock::new();
        let socket = TcpStream::connect(portal).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let machine = Initiator::new(options, InitiatorTimes::default(), clock.monotonic());
        let mut session = Self {
            machine,
            socket,
            clock,
        };
        match session.next() {
            InitiatorEvent::LoggedIn(_) => Ok(session),
            InitiatorEvent::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self) {
        while let Some(pdu) = self.machine.poll_transmit() {
            // A target that has closed the connection is noticed when reading.
            drop(self.socket.write_all(&pdu.to_vec()));
        }
    }

    pub(crate) fn next(&mut self) -> InitiatorEvent {
        loop {
            self.send();
            if let Some(event) = self.machine.poll_event() {
                return event;
            }
            let mut bytes = vec![0; 256 << 10];
            match self.socket.read(&mut bytes) {
                Ok(0) | Err(_) => return InitiatorEvent::Failed(InitiatorError::Dropped),
                Ok(count) => {
                    let now = self.clock.monotonic();
                    self.machine.receive(&bytes[..count], now);
                }
            }
        }
    }

    pub(crate) fn submit(&mut self, cdb: &[u8], data: &[u8], read_bytes: u32) {
        let submission = Submission {
            lun: LunField::from_number(1).unwrap(),
            cdb: CdbBytes::new(cdb).unwrap(),
            read_bytes,
            data: Bytes::copy_from_slice(data),
        };
        self.machine.submit(submission).unwrap();
        self.send();
    }

    pub(crate) fn run(
        &mut self,
        cdb: &[u8],
        data: &[u8],
        read_bytes: u32,
    ) -> Result<CommandOutcome, InitiatorError> {
        self.submit(cdb, data, read_bytes);
        match self.next() {
            InitiatorEvent::Completed(outcome) => Ok(outcome),
            InitiatorEvent::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// TEST UNIT READY until no unit attention is left: the codes of those that were.
    pub(crate) fn attentions(&mut self) -> Vec<(u8, u8)> {
        let mut codes = Vec::new();
        loop {
            let outcome = self.run(&[0; 6], &[], 0).unwrap();
            if outcome.status == 0 {
                return codes;
            }
            assert_eq!(outcome.sense[2], 6, "{:x?}", outcome.sense);
            codes.push((outcome.sense[12], outcome.sense[13]));
        }
    }

    pub(crate) fn write(&mut self, lba: u32, data: &[u8]) {
        let outcome = self.run(&cdb10(0x2a, lba, data.len()), data, 0).unwrap();
        assert_eq!(outcome.status, 0, "{:x?}", outcome.sense);
    }

    pub(crate) fn read(&mut self, lba: u32, length: usize) -> Bytes {
        let expected = u32::try_from(length).unwrap();
        let outcome = self.run(&cdb10(0x28, lba, length), &[], expected).unwrap();
        assert_eq!(outcome.status, 0, "{:x?}", outcome.sense);
        outcome.data
    }

    pub(crate) fn task_management(&mut self, function: TaskManagementFunction) {
        let lun = LunField::from_number(1).unwrap();
        self.machine.task_management(function, lun);
        self.send();
    }

    pub(crate) fn discover(&mut self) -> Vec<TargetRecord> {
        self.machine.discover();
        match self.next() {
            InitiatorEvent::Targets(targets) => targets,
            other => panic!("{other:?}"),
        }
    }

    /// What a normal session is told of its own target.
    pub(crate) fn discover_own(&mut self) -> Vec<TargetRecord> {
        self.machine.discover_own();
        match self.next() {
            InitiatorEvent::Targets(targets) => targets,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn logout(mut self) {
        self.machine.logout();
        assert!(matches!(self.next(), InitiatorEvent::LoggedOut));
    }

    /// Whether the target has closed the connection, waiting for it.
    pub(crate) fn is_cut(&mut self) -> bool {
        matches!(self.next(), InitiatorEvent::Failed(_))
    }
}

pub(crate) fn cdb10(opcode: u8, lba: u32, length: usize) -> Vec<u8> {
    let mut cdb = vec![opcode, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(u16::try_from(length / 512).unwrap().to_be_bytes());
    cdb.push(0);
    cdb
}
