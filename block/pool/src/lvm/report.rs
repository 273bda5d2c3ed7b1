//! What LVM reports, as types: one `fullreport` shows a whole group in one consistent state.
//!
//! LVM writes every number as a string and leaves a string empty where a field does not apply.

use core::fmt;
use onggi_common_units::ByteCount;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// The command whose output [`parse`] reads; the group's name is to be added.
pub const COMMAND: [&str; 26] = [
    "fullreport",
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "--configreport",
    "vg",
    "-o",
    "vg_name,vg_uuid,vg_seqno,vg_extent_size,vg_extent_count,vg_free_count,vg_tags,vg_missing_pv_count",
    "--configreport",
    "pv",
    "-o",
    "pv_name,pv_uuid,pe_start,pv_pe_count,dev_size",
    "--configreport",
    "lv",
    "-o",
    "lv_name,lv_uuid,lv_size,lv_tags,lv_attr,data_percent",
    "--configreport",
    "seg",
    "-o",
    "lv_uuid,segtype,seg_start_pe,seg_size_pe,seg_pe_ranges",
    "--configreport",
    "pvseg",
    "-o",
    "pvseg_start",
];

/// A report that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It is not the JSON that was asked for.
    #[error("not the expected JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value of another kind.
    #[error("{field} is {value:?}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// There is more than one group, or a segment belongs to no volume.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// A volume group in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// LVM's id of it.
    pub uuid: String,
    /// Grows with each change of it.
    pub seqno: u64,
    /// The size of its extents; never zero.
    pub extent_size: ByteCount,
    /// How many extents it has.
    pub extent_count: u64,
    /// How many of them belong to no volume.
    pub free_count: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// How many of its devices are not to be found.
    pub missing_count: u64,
    /// Its devices.
    pub physical: Vec<PhysicalVolume>,
    /// Its volumes.
    pub logical: Vec<LogicalVolume>,
}

/// A device of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolume {
    /// Its node.
    pub name: PathBuf,
    /// LVM's id of it.
    pub uuid: String,
    /// Where its first extent begins.
    pub extents_start: ByteCount,
    /// How many extents it has.
    pub extent_count: u64,
    /// The device's size.
    pub device_size: ByteCount,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Its name; in brackets when LVM hides it.
    pub name: String,
    /// LVM's id of it.
    pub uuid: String,
    /// Its size.
    pub size: ByteCount,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether the kernel has it active.
    pub is_active: bool,
    /// How much of it is taken up, in hundredths of a per cent; only for thin pools and thin volumes.
    pub used_hundredths_percent: Option<u64>,
    /// Its segments, in order.
    pub segments: Vec<Segment>,
}

/// A part of a logical volume that is of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// `linear`, `thin-pool`, …
    pub kind: String,
    /// Its first extent, counted in the volume.
    pub start: u64,
    /// How many extents it has.
    pub count: u64,
    /// Where its extents are on devices; empty for kinds that have none of their own.
    pub ranges: Vec<ExtentRange>,
}

/// Extents that follow each other on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentRange {
    /// The device's node, or a hidden volume's name.
    pub device: PathBuf,
    /// The first extent.
    pub first: u64,
    /// The last extent.
    pub last: u64,
}

#[derive(Deserialize)]
struct RawReport {
    report: Vec<RawGroup>,
}

#[derive(Deserialize)]
struct RawGroup {
    vg: Vec<RawVg>,
    pv: Vec<RawPv>,
    lv: Vec<RawLv>,
    seg: Vec<RawSegment>,
}

#[derive(Deserialize)]
struct RawVg {
    vg_name: String,
    vg_uuid: String,
    vg_seqno: String,
    vg_extent_size: String,
    vg_extent_count: String,
    vg_free_count: String,
    vg_tags: String,
    vg_missing_pv_count: String,
}

#[derive(Deserialize)]
struct RawPv {
    pv_name: String,
    pv_uuid: String,
    pe_start: String,
    pv_pe_count: String,
    dev_size: String,
}

#[derive(Deserialize)]
struct RawLv {
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    lv_tags: String,
    lv_attr: String,
    data_percent: String,
}

#[derive(Deserialize)]
struct RawSegment {
    lv_uuid: String,
    segtype: String,
    seg_start_pe: String,
    seg_size_pe: String,
    seg_pe_ranges: String,
}

/// Reads a report of at most one group. `None` when there is no such group.
///
/// # Errors
/// When the report is not what [`COMMAND`] prints.
pub fn parse(text: &str) -> Result<Option<Group>, ReportError> {
    let raw: RawReport = serde_json::from_str(text)?;
    let mut groups = raw.report.into_iter();
    let Some(raw) = groups.next() else {
        return Ok(None);
    };
    if groups.next().is_some() {
        return Err(ReportError::Inconsistent(
            "more than one group in the report",
        ));
    }
    let mut vgs = raw.vg.into_iter();
    let (Some(vg), None) = (vgs.next(), vgs.next()) else {
        return Err(ReportError::Inconsistent(
            "not exactly one group in the report",
        ));
    };
    let extent_size = bytes("vg_extent_size", &vg.vg_extent_size)?;
    if extent_size == ByteCount::ZERO {
        return Err(wrong(
            "vg_extent_size",
            &vg.vg_extent_size,
            "a size above zero",
        ));
    }
    Ok(Some(Group {
        seqno: number("vg_seqno", &vg.vg_seqno)?,
        extent_size,
        extent_count: number("vg_extent_count", &vg.vg_extent_count)?,
        free_count: number("vg_free_count", &vg.vg_free_count)?,
        tags: tags(&vg.vg_tags),
        missing_count: number("vg_missing_pv_count", &vg.vg_missing_pv_count)?,
        physical: raw.pv.into_iter().map(physical).collect::<Result<_, _>>()?,
        logical: logical(raw.lv, raw.seg)?,
        name: vg.vg_name,
        uuid: vg.vg_uuid,
    }))
}

fn physical(raw: RawPv) -> Result<PhysicalVolume, ReportError> {
    Ok(PhysicalVolume {
        extents_start: bytes("pe_start", &raw.pe_start)?,
        extent_count: number("pv_pe_count", &raw.pv_pe_count)?,
        device_size: bytes("dev_size", &raw.dev_size)?,
        name: PathBuf::from(raw.pv_name),
        uuid: raw.pv_uuid,
    })
}

fn logical(
    volumes: Vec<RawLv>,
    segments: Vec<RawSegment>,
) -> Result<Vec<LogicalVolume>, ReportError> {
    let mut by_volume: HashMap<String, Vec<Segment>> = HashMap::new();
    for raw in segments {
        let segment = Segment {
            start: number("seg_start_pe", &raw.seg_start_pe)?,
            count: number("seg_size_pe", &raw.seg_size_pe)?,
            ranges: ranges(&raw.seg_pe_ranges)?,
            kind: raw.segtype,
        };
        by_volume.entry(raw.lv_uuid).or_default().push(segment);
    }
    let mut logical = Vec::with_capacity(volumes.len());
    for raw in volumes {
        let mut segments = by_volume.remove(&raw.lv_uuid).unwrap_or_default();
        segments.sort_by_key(|segment| segment.start);
        logical.push(LogicalVolume {
            size: bytes("lv_size", &raw.lv_size)?,
            tags: tags(&raw.lv_tags),
            // The fifth attribute is the state: `a` active, `-` not, `X` unknown because activation is off.
            is_active: raw.lv_attr.as_bytes().get(4) == Some(&b'a'),
            used_hundredths_percent: percent(&raw.data_percent)?,
            segments,
            name: raw.lv_name,
            uuid: raw.lv_uuid,
        });
    }
    if by_volume.is_empty() {
        Ok(logical)
    } else {
        Err(ReportError::Inconsistent(
            "a segment of no volume in the report",
        ))
    }
}

/// Reads `/dev/loop0:0-19 /dev/loop0:23-32`.
fn ranges(text: &str) -> Result<Vec<ExtentRange>, ReportError> {
    text.split_whitespace()
        .map(|word| {
            let malformed = || wrong("seg_pe_ranges", word, "DEVICE:FIRST-LAST");
            let (device, extents) = word.rsplit_once(':').ok_or_else(malformed)?;
            let (first, last) = extents.split_once('-').ok_or_else(malformed)?;
            let (first, last) = (
                number("seg_pe_ranges", first)?,
                number("seg_pe_ranges", last)?,
            );
            if device.is_empty() || first > last {
                return Err(malformed());
            }
            Ok(ExtentRange {
                device: PathBuf::from(device),
                first,
                last,
            })
        })
        .collect()
}

/// Reads `12.34` as 1234; LVM always writes two decimals.
fn percent(text: &str) -> Result<Option<u64>, ReportError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || wrong("data_percent", text, "a percentage with two decimals");
    let (whole, decimals) = text.split_once('.').ok_or_else(malformed)?;
    if decimals.len() != 2 {
        return Err(malformed());
    }
    let value = number("data_percent", &format!("{whole}{decimals}"))?;
    if value > 10_000 {
        Err(malformed())
    } else {
        Ok(Some(value))
    }
}

fn tags(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|tag| !tag.is_empty())
        .map(str::to_owned)
        .collect()
}

fn bytes(field: &'static str, text: &str) -> Result<ByteCount, ReportError> {
    number(field, text).map(ByteCount::new)
}

fn number(field: &'static str, text: &str) -> Result<u64, ReportError> {
    // parse() alone would also take a plus sign.
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(value) = text.parse()
    {
        return Ok(value);
    }
    Err(wrong(field, text, "a whole number"))
}

fn wrong(field: &'static str, value: impl fmt::Display, expected: &'static str) -> ReportError {
    ReportError::Field {
        field,
        value: value.to_string(),
        expected,
    }
}

impl Group {
    /// The volume of this name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&LogicalVolume> {
        self.logical.iter().find(|volume| volume.name == name)
    }

    /// So many extents in bytes; saturates at 64 bits.
    #[must_use]
    pub const fn extents(&self, count: u64) -> ByteCount {
        ByteCount::new(self.extent_size.bytes().saturating_mul(count))
    }

    /// How many extents it takes to hold so many bytes.
    #[must_use]
    pub const fn extents_for(&self, size: ByteCount) -> u64 {
        size.bytes().div_ceil(self.extent_size.bytes())
    }
}

#[cfg(test)]
mod tests;
