//! Mode pages: caching (08h), control (0Ah) and control extension (0Ah, subpage 01h).
//!
//! | page | field | changeable | meaning here |
//! |---|---|---|---|
//! | caching | WCE | yes | set: a write is durable after SYNCHRONIZE CACHE; clear: when it is answered |
//! | control | D_SENSE | yes | sense in descriptor format |
//! | control | SWP | yes | writing is refused |
//! | control extension | IALUAE | no | set: implicit asymmetric access, as REPORT TARGET PORT GROUPS tells |

use crate::cdb::{ModeForm, ModeSense};
use crate::range::Capacity;
use crate::sense::Sense;
use crate::wire::{Builder, cut, length16, u16_at};

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;
/// The subpage of the control page.
const EXTENSION: u8 = 0x01;
const ALL_SUBPAGES: u8 = 0xff;
/// SPF: the page has a subpage code and a two-byte length.
const SUBPAGE_FORMAT: u8 = 0x40;
const EXTENSION_BYTES: u16 = 28;
const IMPLICIT_ACCESS: u8 = 0x01;
const WRITE_CACHE: u8 = 0x04;
const DESCRIPTOR_SENSE: u8 = 0x04;
const SOFTWARE_WRITE_PROTECT: u8 = 0x08;
const BLOCK_DESCRIPTOR_BYTES: usize = 8;

/// What initiators may set. Nothing of it is saved: a restart brings the defaults back, and a unit attention says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModePages {
    pub(crate) write_cache: bool,
    pub(crate) descriptor_sense: bool,
    pub(crate) write_protect: bool,
}

impl Default for ModePages {
    fn default() -> Self {
        // Writes go to the page cache first, so that WCE = 1 is the truth.
        Self {
            write_cache: true,
            descriptor_sense: false,
            write_protect: false,
        }
    }
}

type Page = Vec<u8>;

impl ModePages {
    fn caching(self) -> Page {
        let mut page = Builder::new();
        page.u8(CACHING)
            .u8(18)
            .u8(if self.write_cache { WRITE_CACHE } else { 0 })
            .zeros(17);
        page.finish()
    }

    fn control(self) -> Page {
        let mut page = Builder::new();
        // GLTSD: there is no log to save. QUEUE ALGORITHM MODIFIER 1: tasks may be reordered.
        page.u8(CONTROL)
            .u8(10)
            .u8(0x02
                | if self.descriptor_sense {
                    DESCRIPTOR_SENSE
                } else {
                    0
                })
            .u8(0x10);
        page.u8(if self.write_protect {
            SOFTWARE_WRITE_PROTECT
        } else {
            0
        })
        .zeros(3);
        // BUSY TIMEOUT PERIOD: unlimited.
        page.u16(0xffff).u16(0);
        page.finish()
    }

    fn control_extension(flags: u8) -> Page {
        let mut page = Builder::new();
        page.u8(CONTROL | SUBPAGE_FORMAT)
            .u8(EXTENSION)
            .u16(EXTENSION_BYTES)
            .u8(flags)
            .zeros(usize::from(EXTENSION_BYTES).saturating_sub(1));
        page.finish()
    }

    fn changeable(code: u8, subpage: u8) -> Page {
        let mut page = Builder::new();
        if subpage == EXTENSION {
            return Self::control_extension(0);
        }
        if code == CACHING {
            page.u8(CACHING).u8(18).u8(WRITE_CACHE).zeros(17);
        } else {
            page.u8(CONTROL)
                .u8(10)
                .u8(DESCRIPTOR_SENSE)
                .u8(0)
                .u8(SOFTWARE_WRITE_PROTECT)
                .zeros(7);
        }
        page.finish()
    }

    fn page(self, code: u8, subpage: u8) -> Option<Page> {
        match (code, subpage) {
            (CACHING, 0) => Some(self.caching()),
            (CONTROL, 0) => Some(self.control()),
            (CONTROL, EXTENSION) => Some(Self::control_extension(IMPLICIT_ACCESS)),
            _ => None,
        }
    }

    /// The answer to MODE SENSE.
    pub(crate) fn sense(
        self,
        asked: ModeSense,
        capacity: Capacity,
        read_only: bool,
    ) -> Result<Vec<u8>, Sense> {
        let codes: &[(u8, u8)] = match (asked.page, asked.subpage) {
            (CACHING, 0 | ALL_SUBPAGES) => &[(CACHING, 0)],
            (CONTROL, 0) => &[(CONTROL, 0)],
            (CONTROL, EXTENSION) => &[(CONTROL, EXTENSION)],
            (CONTROL, ALL_SUBPAGES) => &[(CONTROL, 0), (CONTROL, EXTENSION)],
            (ALL, 0) => &[(CACHING, 0), (CONTROL, 0)],
            (ALL, ALL_SUBPAGES) => &[(CACHING, 0), (CONTROL, 0), (CONTROL, EXTENSION)],
            _ => return Err(Sense::INVALID_FIELD_IN_CDB),
        };
        let mut pages = Vec::new();
        for (code, subpage) in codes {
            pages.extend(match asked.control {
                0 => self.page(*code, *subpage).unwrap_or_default(),
                1 => Self::changeable(*code, *subpage),
                2 => Self::default().page(*code, *subpage).unwrap_or_default(),
                _ => return Err(Sense::SAVING_NOT_SUPPORTED),
            });
        }
        let descriptor = if asked.no_block_descriptor {
            Vec::new()
        } else {
            block_descriptor(capacity, asked.long_block_descriptor)
        };
        // WP; DPOFUA: DPO and FUA are understood.
        let parameter = 0x10
            | if read_only || self.write_protect {
                0x80
            } else {
                0
            };
        let mut rest = descriptor.clone();
        rest.extend(pages);
        let mut data = Builder::new();
        match asked.form {
            ModeForm::Six => {
                let length = u8::try_from(rest.len().saturating_add(3)).unwrap_or(u8::MAX);
                let descriptor_length = u8::try_from(descriptor.len()).unwrap_or(u8::MAX);
                data.u8(length).u8(0).u8(parameter).u8(descriptor_length);
            }
            ModeForm::Ten => {
                let long = asked.long_block_descriptor && !descriptor.is_empty();
                data.u16(length16(&rest).saturating_add(6))
                    .u8(0)
                    .u8(parameter);
                data.u8(u8::from(long)).u8(0).u16(length16(&descriptor));
            }
        }
        data.bytes(&rest);
        Ok(cut(data.finish(), asked.allocation))
    }

    /// The pages after MODE SELECT. Either all of the list is taken or nothing.
    pub(crate) fn select(
        self,
        form: ModeForm,
        list: &[u8],
        capacity: Capacity,
    ) -> Result<Self, Sense> {
        const LENGTH: Sense = Sense::PARAMETER_LIST_LENGTH;
        let (header, descriptor) = match form {
            ModeForm::Six => (4, list.get(3).copied().map(u16::from)),
            ModeForm::Ten => (8, u16_at(list, 6)),
        };
        let descriptor = usize::from(descriptor.ok_or(LENGTH)?);
        let after_header = list.get(header..).ok_or(LENGTH)?;
        let given = after_header.get(..descriptor).ok_or(LENGTH)?;
        check_block_descriptor(given, capacity)?;
        let mut rest = after_header.get(descriptor..).ok_or(LENGTH)?;
        let mut next = self;
        while let [code, second, ..] = rest {
            let (place, whole) = if code & SUBPAGE_FORMAT == 0 {
                ((*code, 0), usize::from(*second).saturating_add(2))
            } else {
                let length = u16_at(rest, 2).ok_or(LENGTH)?;
                let code = code ^ SUBPAGE_FORMAT;
                ((code, *second), usize::from(length).saturating_add(4))
            };
            let page = rest.get(..whole).ok_or(LENGTH)?;
            next = next.with_page(place, page)?;
            rest = rest.get(whole..).ok_or(LENGTH)?;
        }
        if rest.is_empty() {
            Ok(next)
        } else {
            Err(LENGTH)
        }
    }

    fn with_page(self, (code, subpage): (u8, u8), page: &[u8]) -> Result<Self, Sense> {
        const INVALID: Sense = Sense::INVALID_FIELD_IN_PARAMETERS;
        // The PS bit is reserved here, so that the first byte must be the page's.
        let current = self.page(code, subpage).ok_or(INVALID)?;
        if page.len() != current.len() {
            return Err(INVALID);
        }
        let fixed = Self::changeable(code, subpage);
        for ((new, old), mask) in page.iter().zip(&current).zip(&fixed).skip(2) {
            if (new ^ old) & !mask != 0 {
                return Err(INVALID);
            }
        }
        let bit = |at: usize, mask: u8| page.get(at).is_some_and(|byte| byte & mask != 0);
        if subpage != 0 {
            return Ok(self);
        }
        Ok(if code == CACHING {
            Self {
                write_cache: bit(2, WRITE_CACHE),
                ..self
            }
        } else {
            Self {
                descriptor_sense: bit(2, DESCRIPTOR_SENSE),
                write_protect: bit(4, SOFTWARE_WRITE_PROTECT),
                ..self
            }
        })
    }
}

// SBC-4 §6.5.2: eight bytes, or sixteen when LLBAA allows; a number too large for the field is all ones.
fn block_descriptor(capacity: Capacity, long: bool) -> Vec<u8> {
    let mut data = Builder::new();
    let size = capacity.block_size().bytes();
    if long {
        data.u64(capacity.blocks()).u32(0).u32(size);
    } else {
        data.u32(u32::try_from(capacity.blocks()).unwrap_or(u32::MAX))
            .u32(size);
    }
    data.finish()
}

// A block descriptor may be sent, but only to say what is so already.
fn check_block_descriptor(given: &[u8], capacity: Capacity) -> Result<(), Sense> {
    match given.len() {
        0 => Ok(()),
        BLOCK_DESCRIPTOR_BYTES if given == block_descriptor(capacity, false) => Ok(()),
        _ => Err(Sense::INVALID_FIELD_IN_PARAMETERS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::BlockSize;
    use onggi_common_units::ByteCount;
    use proptest::prelude::*;

    fn capacity() -> Capacity {
        Capacity::new(ByteCount::from_mib(1), BlockSize::B512).unwrap()
    }

    fn asked(page: u8, control: u8) -> ModeSense {
        ModeSense {
            form: ModeForm::Six,
            no_block_descriptor: false,
            long_block_descriptor: false,
            control,
            page,
            subpage: 0,
            allocation: 255,
        }
    }

    #[test]
    fn all_pages_are_the_sum_of_each() {
        let pages = ModePages::default();
        let data = pages.sense(asked(ALL, 0), capacity(), false).unwrap();
        assert_eq!(
            (usize::from(data[0]), data.len()),
            (data.len() - 1, 4 + 8 + 20 + 12)
        );
        assert_eq!((data[2], data[3]), (0x10, 8));
        assert_eq!(data[4..12], [0, 0, 8, 0, 0, 0, 2, 0]);
        assert_eq!(
            (data[12], data[14] & WRITE_CACHE, data[32]),
            (CACHING, WRITE_CACHE, CONTROL)
        );
        let long = ModeSense {
            form: ModeForm::Ten,
            long_block_descriptor: true,
            ..asked(ALL, 0)
        };
        let data = pages.sense(long, capacity(), true).unwrap();
        assert_eq!(
            (data[1], data[3], data[4], data[7]),
            (6 + 16 + 32, 0x90, 1, 16)
        );
    }

    #[test]
    fn unknown_pages_and_saved_values_are_refused() {
        let pages = ModePages::default();
        for page in [0x01, 0x02, 0x1c, 0x3e] {
            assert_eq!(
                pages.sense(asked(page, 0), capacity(), false),
                Err(Sense::INVALID_FIELD_IN_CDB)
            );
        }
        let saved = pages.sense(asked(CACHING, 3), capacity(), false);
        assert_eq!(saved, Err(Sense::SAVING_NOT_SUPPORTED));
        for (page, subpage) in [(CONTROL, 2), (CACHING, 1), (ALL, 1)] {
            let asked = ModeSense {
                subpage,
                ..asked(page, 0)
            };
            let refused = pages.sense(asked, capacity(), false);
            assert_eq!(refused, Err(Sense::INVALID_FIELD_IN_CDB));
        }
    }

    #[test]
    fn the_control_extension_is_told_alone_or_with_all_and_may_be_sent_back_as_it_is() {
        let pages = ModePages::default();
        let with = |page, subpage| ModeSense {
            subpage,
            ..asked(page, 0)
        };
        let alone = pages.sense(with(CONTROL, 1), capacity(), false).unwrap();
        assert_eq!(alone[12..18], [0x4a, 1, 0, 28, 1, 0]);
        assert_eq!(alone.len(), 12 + 32);
        let mut all = pages.sense(with(ALL, 0xff), capacity(), false).unwrap();
        assert_eq!(all.len(), 12 + 20 + 12 + 32);
        all[0] = 0;
        assert_eq!(pages.select(ModeForm::Six, &all, capacity()), Ok(pages));
        all[48] ^= 1;
        assert!(pages.select(ModeForm::Six, &all, capacity()).is_err());
    }

    #[test]
    fn what_was_sensed_can_be_selected_and_only_changeable_bits_change() {
        let pages = ModePages::default();
        let mut list = pages.sense(asked(ALL, 0), capacity(), false).unwrap();
        list[0] = 0;
        assert_eq!(pages.select(ModeForm::Six, &list, capacity()), Ok(pages));
        list[14] ^= WRITE_CACHE;
        list[34] ^= DESCRIPTOR_SENSE;
        let changed = pages.select(ModeForm::Six, &list, capacity()).unwrap();
        assert!(!changed.write_cache && changed.descriptor_sense && !changed.write_protect);
        list[15] = 1;
        let refused = pages.select(ModeForm::Six, &list, capacity());
        assert_eq!(refused, Err(Sense::INVALID_FIELD_IN_PARAMETERS));
        let short = pages.select(ModeForm::Six, &list[..20], capacity());
        assert_eq!(short, Err(Sense::PARAMETER_LIST_LENGTH));
    }

    proptest! {
        #[test]
        fn no_list_panics(list in prop::collection::vec(any::<u8>(), 0..64)) {
            for form in [ModeForm::Six, ModeForm::Ten] {
                if let Ok(pages) = ModePages::default().select(form, &list, capacity()) {
                    prop_assert!(list.len() > 4 || pages == ModePages::default());
                }
            }
        }
    }
}
