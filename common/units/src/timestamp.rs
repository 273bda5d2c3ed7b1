//! Two clocks' readings: `Timestamp`, Swift's version stamp of a write, and `UtcTime`, a moment people read.
//!
//! Time is an argument everywhere; nothing here asks what time it is.

use core::fmt;
use core::str::FromStr;

/// When a write happened, in Swift's units of 10 µs, with an offset that orders rewrites of one moment.
///
/// Text form: ten digits, a point, five digits (`1700000000.12345`), then `_` and sixteen hexadecimal digits when the
/// offset is not zero. Texts of equal length compare like the values. (Swift, `swift.common.utils.timestamp`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    ticks: u64,
    offset: u64,
}

/// A text or number that is no timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a timestamp: write seconds since 1970, for example 1700000000.12345")]
pub struct TimestampError {
    /// What was given, cut to 64 characters.
    pub text: String,
}

/// Ticks of a `Timestamp` in a second.
pub const TICKS_PER_SECOND: u64 = 100_000;
/// The first tick that no longer fits ten digits of seconds.
const TICKS_END: u64 = 10_000_000_000 * TICKS_PER_SECOND;

impl Timestamp {
    /// The oldest timestamp.
    pub const ZERO: Self = Self {
        ticks: 0,
        offset: 0,
    };

    /// The timestamp of so many 10 µs ticks since 1970, or `None` when the seconds need more than ten digits.
    #[must_use]
    pub const fn from_ticks(ticks: u64) -> Option<Self> {
        if ticks < TICKS_END {
            Some(Self { ticks, offset: 0 })
        } else {
            None
        }
    }

    /// The moment as a timestamp; a moment past the year 2286 saturates.
    #[must_use]
    pub fn from_utc(time: UtcTime) -> Self {
        Self {
            ticks: (time.micros() / 10).min(TICKS_END - 1),
            offset: 0,
        }
    }

    /// 10 µs ticks since 1970.
    #[must_use]
    pub const fn ticks(self) -> u64 {
        self.ticks
    }

    /// The offset within the tick.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// The same tick with another offset.
    #[must_use]
    pub const fn with_offset(self, offset: u64) -> Self {
        Self {
            ticks: self.ticks,
            offset,
        }
    }

    /// The next tick, without an offset: strictly newer than this one. `None` at the end of time.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::from_ticks(self.ticks + 1)
    }

    /// The moment, without the offset.
    #[must_use]
    pub const fn to_utc(self) -> UtcTime {
        UtcTime::from_micros(self.ticks * 10)
    }

    /// The text without an offset, as Swift shows it in `X-Timestamp`.
    #[must_use]
    pub fn normal(self) -> String {
        format!(
            "{:010}.{:05}",
            self.ticks / TICKS_PER_SECOND,
            self.ticks % TICKS_PER_SECOND
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:010}.{:05}",
            self.ticks / TICKS_PER_SECOND,
            self.ticks % TICKS_PER_SECOND
        )?;
        if self.offset != 0 {
            write!(f, "_{:016x}", self.offset)?;
        }
        Ok(())
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_timestamp(text).ok_or_else(|| TimestampError {
            text: text.chars().take(64).collect(),
        })
    }
}

fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let (moment, offset) = match text.split_once('_') {
        Some((moment, offset)) if (1..=16).contains(&offset.len()) => {
            if !offset.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            (moment, u64::from_str_radix(offset, 16).ok()?)
        }
        Some(_) => return None,
        None => (text, 0),
    };
    let (seconds, fraction) = moment.split_once('.').unwrap_or((moment, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || seconds.len() > 10 || fraction.len() > 20 {
        return None;
    }
    if !all_digits(seconds) || !all_digits(fraction) {
        return None;
    }
    let mut ticks = seconds.parse::<u64>().ok()? * TICKS_PER_SECOND;
    let mut unit = TICKS_PER_SECOND / 10;
    for digit in fraction.bytes().take(5) {
        ticks += u64::from(digit - b'0') * unit;
        unit /= 10;
    }
    Some(Timestamp::from_ticks(ticks)?.with_offset(offset))
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serde::Serialize::serialize(&(self.ticks, self.offset), serializer)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let (ticks, offset) = <(u64, u64)>::deserialize(deserializer)?;
            let at = Self::from_ticks(ticks).map(|at| at.with_offset(offset));
            return at.ok_or_else(|| serde::de::Error::custom("a timestamp past the year 2286"));
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A moment in UTC, in microseconds since 1970-01-01T00:00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UtcTime(u64);

/// The parts of a civil date and time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    seconds_of_day: u64,
}

impl UtcTime {
    /// The start of 1970.
    pub const EPOCH: Self = Self(0);

    /// So many microseconds since 1970.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// So many seconds since 1970; saturates.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This moment and a span after it; saturates.
    #[must_use]
    pub fn saturating_add(self, span: core::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this moment is; zero when it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> core::time::Duration {
        core::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// `2026-11-23T04:27:36.487057`: Cinder's naive form, microseconds, no zone.
    #[must_use]
    pub fn iso_naive(self) -> String {
        let c = self.civil();
        let (hour, minute, second) = hms(c.seconds_of_day);
        format!(
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:06}",
            c.year,
            c.month,
            c.day,
            self.0 % 1_000_000
        )
    }

    /// `2026-11-23T04:27:36.487057Z`: Keystone's form.
    #[must_use]
    pub fn iso_z(self) -> String {
        self.iso_naive() + "Z"
    }

    // Days to civil date by the era method: 400-year eras of 146,097 days, years starting in March so that the leap
    // day is a year's last.
    const fn civil(self) -> Civil {
        let seconds = self.0 / 1_000_000;
        let days = seconds / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
        Civil {
            year,
            month,
            day,
            seconds_of_day: seconds % 86_400,
        }
    }
}

const fn hms(seconds_of_day: u64) -> (u64, u64, u64) {
    (
        seconds_of_day / 3_600,
        seconds_of_day / 60 % 60,
        seconds_of_day % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn swift_texts_parse_and_print() {
        let stamp: Timestamp = "1402464677.04188".parse().unwrap();
        assert_eq!(stamp.to_string(), "1402464677.04188");
        let later: Timestamp = "1402464677.04188_000000000000000f".parse().unwrap();
        assert!(later > stamp);
        assert_eq!(later.normal(), "1402464677.04188");
        assert_eq!(
            "5".parse::<Timestamp>().unwrap().to_string(),
            "0000000005.00000"
        );
        for bad in [
            "",
            ".5",
            "1e9",
            "-1",
            "1.2.3",
            "12345678901",
            "1_",
            "1_+f",
            "nan",
            "1.5_00000000000000000",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn civil_dates_are_right_across_leap_years() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000"),
            (951_782_399, "2000-02-28T23:59:59.000000"),
            (951_782_400, "2000-02-29T00:00:00.000000"),
            (951_868_800, "2000-03-01T00:00:00.000000"),
            (1_795_443_424, "2026-11-23T14:17:04.000000"),
            (4_107_542_400, "2100-03-01T00:00:00.000000"),
        ];
        for (seconds, text) in cases {
            assert_eq!(UtcTime::from_seconds(seconds).iso_naive(), text);
        }
    }

    proptest! {
        #[test]
        fn a_printed_timestamp_parses_back_and_orders_alike(
            a in 0..TICKS_END, b in 0..TICKS_END, offset in any::<u64>()
        ) {
            let a = Timestamp::from_ticks(a).unwrap().with_offset(offset);
            let b = Timestamp::from_ticks(b).unwrap().with_offset(offset);
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
