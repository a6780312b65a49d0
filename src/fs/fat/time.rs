//! Dates and times of DOS: no time zone, which is taken as UTC, and no second but an even one.

use crate::fs::Timestamp;

/// Seconds from 1970 to 1980, where dates begin.
const EPOCH: i64 = 3652 * SECONDS_OF_DAY;

const SECONDS_OF_DAY: i64 = 86400;

/// Returns the moment of a date (day, month, years since 1980), a time (seconds by two, minutes, hours) and hundredths
/// of a second, up to 199. A month or day of zero, which an empty field has, counts as the first.
pub fn timestamp(date: u16, time: u16, hundredths: u8) -> Timestamp {
    /// Days of a common year before each month; months that there are not count as January.
    const DAYS_BEFORE: [i64; 16] = [0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 0, 0, 0];
    let (day, month, year) = (i64::from(date & 31).max(1), usize::from((date >> 5) & 15), i64::from(date >> 9));
    // 2100 is year 120 and no leap year; years end at 2107.
    let is_leap = year % 4 == 0 && year != 120;
    let leap_days = (year + 3) / 4 - i64::from(year > 120) + i64::from(is_leap && month > 2);
    let days = year * 365 + leap_days + DAYS_BEFORE[month] + day - 1;
    let (hours, minutes, seconds) = (i64::from(time >> 11), i64::from((time >> 5) & 63), i64::from(time & 31) * 2);
    Timestamp {
        seconds: EPOCH + days * SECONDS_OF_DAY + hours * 3600 + minutes * 60 + seconds + i64::from(hundredths / 100),
        nanoseconds: u32::from(hundredths % 100) * 10_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(year: u16, month: u16, day: u16, hour: u16, minute: u16, second: u16) -> i64 {
        timestamp(((year - 1980) << 9) | (month << 5) | day, (hour << 11) | (minute << 5) | (second / 2), 0).seconds
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at(1980, 1, 1, 0, 0, 0), 315_532_800);
        assert_eq!(at(1980, 2, 29, 0, 0, 0), 320_630_400);
        assert_eq!(at(1980, 3, 1, 0, 0, 0), 320_716_800);
        assert_eq!(at(2000, 2, 29, 12, 34, 56), 951_827_696);
        assert_eq!(at(2024, 12, 31, 23, 59, 58), 1_735_689_598);
        assert_eq!(at(2100, 3, 1, 0, 0, 0), 4_107_542_400);
        assert_eq!(at(2107, 12, 31, 0, 0, 0), 4_354_732_800);
    }

    #[test]
    fn an_empty_field_is_the_first_moment_there_is() {
        assert_eq!(timestamp(0, 0, 0), Timestamp { seconds: 315_532_800, nanoseconds: 0 });
        assert_eq!(timestamp(0, 0, 199), Timestamp { seconds: 315_532_801, nanoseconds: 990_000_000 });
        timestamp(u16::MAX, u16::MAX, u8::MAX);
    }
}
