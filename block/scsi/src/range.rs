//! Blocks and ranges of blocks: an [`LbaRange`] exists only within a [`Capacity`].

use crate::sense::Sense;
use onggi_common_units::ByteCount;

/// The number of a logical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(u64);

impl Lba {
    /// The block with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The length of a logical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockSize {
    /// 512 bytes, what every initiator knows.
    B512,
    /// 4,096 bytes.
    B4096,
}

/// A block length this target does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block of {bytes} bytes is not supported: use 512 or 4096")]
pub struct BlockSizeError {
    /// What was asked for.
    pub bytes: u32,
}

impl BlockSize {
    /// The block size of so many bytes.
    ///
    /// # Errors
    /// When it is neither 512 nor 4,096.
    pub const fn new(bytes: u32) -> Result<Self, BlockSizeError> {
        match bytes {
            512 => Ok(Self::B512),
            4_096 => Ok(Self::B4096),
            _ => Err(BlockSizeError { bytes }),
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4_096,
        }
    }

    pub(crate) const fn shift(self) -> u32 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }

    /// How many whole blocks so many bytes hold.
    #[must_use]
    pub const fn blocks_in(self, bytes: u64) -> u64 {
        bytes >> self.shift()
    }
}

/// How many blocks of which length a unit has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    blocks: u64,
    block_size: BlockSize,
}

/// A size that makes no logical unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// Not a whole number of blocks, or none at all.
    #[error("{bytes} bytes is not a whole number of blocks of {block_size} bytes, at least one")]
    NotWholeBlocks {
        /// What was asked for.
        bytes: u64,
        /// The block length.
        block_size: u32,
    },
    /// More than file offsets can name.
    #[error("{bytes} bytes is more than 8 EiB - 1")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
    },
}

impl Capacity {
    /// The capacity of a medium of `size` bytes.
    ///
    /// # Errors
    /// When the size is zero, not a whole number of blocks, or past the largest file offset.
    pub const fn new(size: ByteCount, block_size: BlockSize) -> Result<Self, CapacityError> {
        let bytes = size.bytes();
        if bytes > i64::MAX.unsigned_abs() {
            return Err(CapacityError::TooLarge { bytes });
        }
        let blocks = block_size.blocks_in(bytes);
        if blocks == 0 || blocks << block_size.shift() != bytes {
            return Err(CapacityError::NotWholeBlocks {
                bytes,
                block_size: block_size.bytes(),
            });
        }
        Ok(Self { blocks, block_size })
    }

    /// The number of blocks.
    #[must_use]
    pub const fn blocks(self) -> u64 {
        self.blocks
    }

    /// The number of the last block.
    #[must_use]
    pub const fn last(self) -> Lba {
        Lba(self.blocks - 1)
    }

    /// The length of a block.
    #[must_use]
    pub const fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// The size in bytes.
    #[must_use]
    pub const fn size(self) -> ByteCount {
        ByteCount::new(self.blocks << self.block_size.shift())
    }

    /// The range of `count` blocks from `first`. A range of no blocks may stand right behind the last block.
    ///
    /// # Errors
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE when it reaches past the end.
    pub const fn range(self, first: u64, count: u64) -> Result<LbaRange, Sense> {
        match first.checked_add(count) {
            Some(end) if end <= self.blocks => Ok(LbaRange {
                first,
                count,
                block_size: self.block_size,
            }),
            Some(_) | None => Err(Sense::LBA_OUT_OF_RANGE),
        }
    }
}

/// Blocks in a row, all within the capacity that made the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbaRange {
    first: u64,
    count: u64,
    block_size: BlockSize,
}

impl LbaRange {
    /// The first block.
    #[must_use]
    pub const fn first(self) -> Lba {
        Lba(self.first)
    }

    /// How many blocks.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.count
    }

    /// Whether there is no block in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The length of a block.
    #[must_use]
    pub const fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// Where its first byte is on the medium.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.first << self.block_size.shift()
    }

    /// How many bytes it covers.
    #[must_use]
    pub const fn byte_length(self) -> u64 {
        self.count << self.block_size.shift()
    }

    /// The first `count` blocks of it, or all of it when it has fewer.
    #[must_use]
    pub const fn truncated(self, count: u64) -> Self {
        Self {
            count: if count < self.count {
                count
            } else {
                self.count
            },
            ..self
        }
    }
}

/// The number of a logical unit in a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(u16);

/// A logical unit number this target cannot address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("LUN {number} is too large: the largest is {max}", max = Lun::MAX)]
pub struct LunError {
    /// What was asked for.
    pub number: u64,
}

impl Lun {
    /// The largest number flat addressing can hold (SAM-5 §4.7.7.4).
    pub const MAX: u16 = 0x3fff;

    /// The unit with this number.
    ///
    /// # Errors
    /// When it is past [`Self::MAX`].
    pub fn new(number: u64) -> Result<Self, LunError> {
        match u16::try_from(number) {
            Ok(small) if small <= Self::MAX => Ok(Self(small)),
            Ok(_) | Err(_) => Err(LunError { number }),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Reads the eight bytes of a LUN field; `None` for forms that name no unit here (SAM-5 §4.7).
    #[must_use]
    pub fn from_field(field: [u8; 8]) -> Option<Self> {
        let [high, low, rest @ ..] = field;
        if rest != [0; 6] {
            return None;
        }
        let number = match high >> 6 {
            // Peripheral device addressing: bus 0 only.
            0b00 if high == 0 => u16::from(low),
            // Flat space addressing.
            0b01 => u16::from_be_bytes([high & 0x3f, low]),
            _ => return None,
        };
        Some(Self(number))
    }

    /// The eight bytes of a LUN field: peripheral addressing up to 255, flat above, as initiators expect.
    #[must_use]
    pub const fn to_field(self) -> [u8; 8] {
        let [high, low] = self.0.to_be_bytes();
        let method = if self.0 > 0xff { 0x40 } else { 0 };
        [high | method, low, 0, 0, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capacity(blocks: u64) -> Capacity {
        Capacity::new(ByteCount::new(blocks * 512), BlockSize::B512).unwrap()
    }

    #[test]
    fn a_capacity_is_whole_blocks_and_fits_file_offsets() {
        assert!(Capacity::new(ByteCount::ZERO, BlockSize::B512).is_err());
        assert!(Capacity::new(ByteCount::new(513), BlockSize::B512).is_err());
        assert!(Capacity::new(ByteCount::new(512), BlockSize::B4096).is_err());
        assert!(Capacity::new(ByteCount::new(u64::MAX), BlockSize::B512).is_err());
        assert_eq!(capacity(8).last(), Lba::new(7));
        assert!(BlockSize::new(520).is_err());
    }

    #[test]
    fn ranges_end_at_the_last_block() {
        let capacity = capacity(8);
        assert!(capacity.range(0, 8).is_ok());
        assert!(capacity.range(8, 0).is_ok());
        for (first, count) in [(0, 9), (8, 1), (9, 0), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
            assert_eq!(
                capacity.range(first, count),
                Err(Sense::LBA_OUT_OF_RANGE),
                "{first} {count}"
            );
        }
    }

    #[test]
    fn luns_of_foreign_forms_name_no_unit() {
        for bad in [
            [0x80, 0, 0, 0, 0, 0, 0, 0],
            [0xc1, 1, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Lun::from_field(bad), None, "{bad:?}");
        }
        assert!(Lun::new(0x4000).is_err());
    }

    proptest! {
        #[test]
        fn every_lun_survives_its_field(number in 0..=Lun::MAX) {
            let lun = Lun::new(u64::from(number)).unwrap();
            prop_assert_eq!(Lun::from_field(lun.to_field()), Some(lun));
        }

        #[test]
        fn every_range_lies_within_the_medium(first in any::<u64>(), count in any::<u64>(), blocks in 1u64..1 << 40) {
            let capacity = capacity(blocks);
            if let Ok(range) = capacity.range(first, count) {
                prop_assert!(range.byte_offset() + range.byte_length() <= capacity.size().bytes());
            }
        }
    }
}
