//! The workload of invariant B1: initiators write to the target in the guest, with FUA and with SYNCHRONIZE CACHE.
//!
//! Each of [`THREADS`] initiators has a part of the volume of its own and a [`Plan`] that follows from the seed. After
//! a durable operation was answered it puts a mark with its number and that of the operation. So the checker
//! ([`volume_check`](super::volume_check)) knows from the marks alone what has to be there.

use super::marks::MarkWriter;
use super::random::Random;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use onggi_block_initiator::session::{Request, Session, SessionTimes};
use onggi_block_initiator::{ChapCredentials, ConnectionSpec};
use onggi_block_iscsi::pdu::CdbBytes;
use onggi_block_medium::{Extent, ExtentMap, MediumKind, MediumSpec};
use onggi_block_target::{Access, ChapPair, Client, ExportSpec};
use onggi_common_units::{Secret, Uuid};
use std::path::PathBuf;
use std::sync::mpsc;

/// How many initiators write at a time.
pub const THREADS: u64 = 2;
/// The part of the volume each has.
pub const PART_SECTORS: u64 = 1_024;
/// The length of a sector.
pub const SECTOR_BYTES: usize = 512;
/// The volume's size.
pub const VOLUME_BYTES: u64 = THREADS * PART_SECTORS * 512;
/// Where the volume is when it is a region of the disk: in two extents, the second before the first.
pub const EXTENTS: [Extent; 2] = [
    Extent {
        volume_offset: 0,
        medium_offset: 2 << 20,
        length: VOLUME_BYTES / 2,
    },
    Extent {
        volume_offset: VOLUME_BYTES / 2,
        medium_offset: 1 << 20,
        length: VOLUME_BYTES / 2,
    },
];

/// The most writes that are under way at a time.
const BATCH_WRITES_MAX: u64 = 8;
const WRITE_SECTORS_MAX: u64 = 24;
const FUA: u8 = 0x08;
const LUN: u16 = 1;
const IQN: &str = "iqn.2026-11.org.onggi:powercut";
const USER: &str = "initiator";
const SECRET: &str = "of-no-use-outside-this-guest";

/// A run of sectors of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sectors {
    /// The first.
    pub lba: u64,
    /// How many.
    pub count: u64,
}

/// What an initiator does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// WRITE with FUA.
    WriteThrough(Sectors),
    /// COMPARE AND WRITE of one sector, with FUA.
    CompareAndWrite(u64),
    /// Several WRITEs at a time; all are answered before the next operation.
    WriteBack(Vec<Sectors>),
    /// UNMAP.
    Unmap(Sectors),
    /// SYNCHRONIZE CACHE.
    Synchronize,
}

/// The operations of one initiator; the number of an operation is its place.
#[derive(Debug)]
pub struct Plan {
    /// Whose it is.
    pub thread: u64,
    /// What it does.
    pub operations: Vec<Operation>,
}

impl Plan {
    /// The plan that follows from a seed.
    #[must_use]
    pub fn new(seed: u64, thread: u64, count: usize) -> Self {
        let mut random = Random::new(seed.wrapping_add(thread));
        let part = thread * PART_SECTORS;
        let mut operations = Vec::with_capacity(count);
        for _ in 0..count {
            operations.push(match random.below(10) {
                0..=2 => Operation::WriteThrough(some_sectors(&mut random, part, PART_SECTORS)),
                3 => Operation::CompareAndWrite(part + random.below(PART_SECTORS)),
                4..=6 => {
                    // Writes of one batch must not meet: nobody says which of them is the last.
                    let room = PART_SECTORS / BATCH_WRITES_MAX;
                    let starts =
                        (0..=random.below(BATCH_WRITES_MAX)).map(|slot| part + slot * room);
                    let starts: Vec<_> = starts.collect();
                    let mut sectors = |start| some_sectors(&mut random, start, room);
                    Operation::WriteBack(starts.into_iter().map(&mut sectors).collect())
                }
                7 => Operation::Unmap(some_sectors(&mut random, part, PART_SECTORS)),
                _ => Operation::Synchronize,
            });
        }
        Self { thread, operations }
    }
}

fn some_sectors(random: &mut Random, start: u64, room: u64) -> Sectors {
    let count = 1 + random.below(WRITE_SECTORS_MAX.min(room));
    Sectors {
        lba: start + random.below(room - count + 1),
        count,
    }
}

/// What an operation writes to a sector.
#[must_use]
pub fn content(operation: u64, lba: u64) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    let mut random = Random::new(operation.rotate_left(32) ^ lba);
    let (words, _) = sector.as_chunks_mut::<8>();
    for (index, word) in words.iter_mut().enumerate() {
        // The operation's number is stored off by one, so that nothing written looks like zeros.
        *word = match index {
            0 => (operation + 1).to_le_bytes(),
            1 => lba.to_le_bytes(),
            _ => random.bits().to_le_bytes(),
        };
    }
    sector
}

/// Where the workload finds what it needs, in the guest.
#[derive(Debug, Clone)]
pub struct Place {
    /// The target's control socket.
    pub socket: PathBuf,
    /// The target's portal.
    pub portal: String,
    /// The disk whose beginning takes the marks.
    pub disk: PathBuf,
    /// The file that is the volume; without one it is a region of the disk.
    pub file: Option<PathBuf>,
    /// Where on the disk the marks go.
    pub marks: u64,
}

/// Exports the volume and writes to it until the plans of all initiators are carried out.
///
/// # Errors
/// When the target refuses anything.
pub fn run(place: &Place, seed: u64, count: usize) -> Result<()> {
    let export = export(place)?;
    Client::new(&place.socket).put_export(&export)?;
    let spec = ConnectionSpec {
        volume: export.volume,
        attachment: export.access[0].attachment,
        portals: vec![place.portal.clone()],
        iqn: export.iqn.clone(),
        lun: LUN,
        initiator_name: "iqn.2026-11.org.onggi:writer".to_owned(),
        chap: Some(ChapCredentials {
            user: USER.to_owned(),
            secret: Secret::new(SECRET),
        }),
        mutual_chap: None,
        is_read_only: false,
    };
    std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|thread| {
            let spec = &spec;
            scope.spawn(move || write(place, spec, &Plan::new(seed, thread, count)))
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

fn export(place: &Place) -> Result<ExportSpec> {
    let (path, kind, extents) = match &place.file {
        Some(file) => {
            let whole = Extent {
                volume_offset: 0,
                medium_offset: 0,
                length: VOLUME_BYTES,
            };
            (file, MediumKind::File, vec![whole])
        }
        None => (&place.disk, MediumKind::Device, EXTENTS.to_vec()),
    };
    Ok(ExportSpec {
        iqn: IQN.to_owned(),
        lun: LUN,
        volume: Uuid::from_bytes([0xb1; 16]),
        medium: MediumSpec {
            path: path.clone(),
            kind,
            extents: ExtentMap::new(extents)?,
            fence: None,
        },
        block_size: 512,
        read_only: false,
        access: vec![Access {
            attachment: Uuid::from_bytes([1; 16]),
            initiator: None,
            chap: Some(ChapPair {
                user: USER.to_owned(),
                secret: Secret::new(SECRET),
            }),
            mutual: None,
        }],
    })
}

/// One initiator at work.
struct Writer {
    session: Session,
    marks: MarkWriter,
    thread: u64,
    /// The last operation that wrote each sector of the part; the content may also be zeros.
    last: Vec<Option<u64>>,
}

fn write(place: &Place, spec: &ConnectionSpec, plan: &Plan) -> Result<()> {
    let mut writer = Writer {
        session: Session::open(spec, SessionTimes::default())?,
        marks: MarkWriter::open(&place.disk, place.marks)?,
        thread: plan.thread,
        last: vec![None; usize::try_from(PART_SECTORS)?],
    };
    writer.await_ready()?;
    for (number, operation) in (0..).zip(&plan.operations) {
        writer
            .perform(number, operation)
            .with_context(|| format!("operation {number}, {operation:?}"))?;
    }
    Ok(())
}

impl Writer {
    /// TEST UNIT READY until no unit attention is left.
    fn await_ready(&self) -> Result<()> {
        for _ in 0..8 {
            if self
                .session
                .execute(request(&[0; 6], Bytes::new())?)?
                .status
                == 0
            {
                return Ok(());
            }
        }
        anyhow::bail!("the unit does not become ready")
    }

    fn perform(&mut self, number: u64, operation: &Operation) -> Result<()> {
        match operation {
            Operation::WriteThrough(sectors) => {
                self.write_all(number, &[*sectors], FUA)?;
                self.mark(number)
            }
            Operation::CompareAndWrite(lba) => {
                self.compare_and_write(number, *lba)?;
                self.mark(number)
            }
            Operation::WriteBack(writes) => self.write_all(number, writes, 0),
            Operation::Unmap(sectors) => self.unmap(*sectors),
            Operation::Synchronize => {
                let mut cdb = [0; 10];
                cdb[0] = 0x35;
                self.execute(&[request(&cdb, Bytes::new())?])?;
                self.mark(number)
            }
        }
    }

    fn mark(&self, number: u64) -> Result<()> {
        self.marks
            .put(&[self.thread.to_le_bytes(), number.to_le_bytes()].concat())
    }

    fn slot(&mut self, lba: u64) -> Result<&mut Option<u64>> {
        let index = usize::try_from(lba - self.thread * PART_SECTORS)?;
        self.last.get_mut(index).context("a foreign sector")
    }

    /// Submits all requests at once and waits until each is answered with GOOD.
    fn execute(&self, requests: &[Request]) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        for request in requests {
            let sender = sender.clone();
            // The receiver waits below; it cannot be gone.
            self.session.submit(
                request.clone(),
                Box::new(move |reply| drop(sender.send(reply))),
            );
        }
        drop(sender);
        let mut answered = 0;
        for reply in receiver {
            let reply = reply?;
            ensure!(
                reply.status == 0,
                "status {:#x}, sense {:x?}",
                reply.status,
                reply.sense
            );
            answered += 1;
        }
        ensure!(answered == requests.len(), "{answered} answers");
        Ok(())
    }

    fn write_all(&mut self, number: u64, writes: &[Sectors], flags: u8) -> Result<()> {
        let mut requests = Vec::new();
        for sectors in writes {
            let mut data = Vec::new();
            for lba in sectors.lba..sectors.lba + sectors.count {
                data.extend(content(number, lba));
                *self.slot(lba)? = Some(number);
            }
            let mut cdb = [0; 10];
            (cdb[0], cdb[1]) = (0x2a, flags);
            cdb[2..6].copy_from_slice(&u32::try_from(sectors.lba)?.to_be_bytes());
            cdb[7..9].copy_from_slice(&u16::try_from(sectors.count)?.to_be_bytes());
            requests.push(request(&cdb, data)?);
        }
        self.execute(&requests)
    }

    fn compare_and_write(&mut self, number: u64, lba: u64) -> Result<()> {
        let slot = self.slot(lba)?;
        let old = slot.map_or([0; SECTOR_BYTES], |last| content(last, lba));
        *slot = Some(number);
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x89, FUA, 1);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        let data = [old, content(number, lba)].concat();
        self.execute(&[request(&cdb, data)?])
    }

    fn unmap(&mut self, sectors: Sectors) -> Result<()> {
        for lba in sectors.lba..sectors.lba + sectors.count {
            *self.slot(lba)? = None;
        }
        // SBC-4 §5.28: a header of 8 bytes and one descriptor of 16.
        let mut list = [0; 24];
        (list[1], list[3]) = (22, 16);
        list[8..16].copy_from_slice(&sectors.lba.to_be_bytes());
        list[16..20].copy_from_slice(&u32::try_from(sectors.count)?.to_be_bytes());
        let mut cdb = [0; 10];
        (cdb[0], cdb[8]) = (0x42, 24);
        self.execute(&[request(&cdb, list.to_vec())?])
    }
}

fn request(cdb: &[u8], data: impl Into<Bytes>) -> Result<Request> {
    Ok(Request {
        cdb: CdbBytes::new(cdb).context("a CDB is too long")?,
        read_bytes: 0,
        data: data.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_stays_in_its_part() {
        let plan = Plan::new(7, 1, 500);
        assert_eq!(plan.operations, Plan::new(7, 1, 500).operations);
        assert_ne!(plan.operations, Plan::new(8, 1, 500).operations);
        let inside = |sectors: &Sectors| {
            sectors.lba >= PART_SECTORS && sectors.lba + sectors.count <= 2 * PART_SECTORS
        };
        let mut kinds = [0; 5];
        for operation in &plan.operations {
            match operation {
                Operation::WriteThrough(sectors) => {
                    kinds[0] += 1;
                    assert!(inside(sectors));
                }
                Operation::CompareAndWrite(lba) => {
                    kinds[1] += 1;
                    assert!(inside(&Sectors {
                        lba: *lba,
                        count: 1
                    }));
                }
                Operation::WriteBack(writes) => {
                    kinds[2] += 1;
                    assert!(writes.iter().all(inside));
                    let apart = writes
                        .windows(2)
                        .all(|pair| pair[0].lba + pair[0].count <= pair[1].lba);
                    assert!(apart, "{writes:?}");
                }
                Operation::Unmap(sectors) => {
                    kinds[3] += 1;
                    assert!(inside(sectors));
                }
                Operation::Synchronize => kinds[4] += 1,
            }
        }
        assert!(kinds.iter().all(|count| *count > 20), "{kinds:?}");
    }
}
