//! Where a volume's bytes lie: a file or device and the extents on it.
//!
//! A pool makes a [`MediumSpec`], the target opens it. The two never need more of each other than this crate.
#![forbid(unsafe_code)]

pub mod extent_map;
pub mod spec;

pub use extent_map::{Extent, ExtentMap, ExtentMapError, OutOfRange, Resolve};
pub use spec::{Fence, MediumKind, MediumSpec};
