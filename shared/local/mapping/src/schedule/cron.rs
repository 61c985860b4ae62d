//! AWS's cron dialect: six fields, `?`, `L`, `W`, `#`, names and years.

use jiff::civil::{Date, DateTime, Weekday};
use time::OffsetDateTime;

use super::zone::Zone;

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const MINUTE: Field = Field { name: "minutes", min: 0, max: 59, names: &[] };
const HOUR: Field = Field { name: "hours", min: 0, max: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day-of-month", min: 1, max: 31, names: &[] };
const MONTH: Field = Field { name: "month", min: 1, max: 12, names: &MONTHS };
const DAY_OF_WEEK: Field = Field { name: "day-of-week", min: 1, max: 7, names: &WEEKDAYS };
const YEAR: Field = Field { name: "year", min: 1970, max: 2199, names: &[] };

/// A cron expression.
#[derive(Debug, Clone)]
pub(super) struct Cron {
    minutes: Set,
    hours: Set,
    days: Days,
    months: Set,
    years: Set,
}

/// Why a cron expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("it has {0} fields, not the six: minutes hours day-of-month month day-of-week year")]
    FieldCount(usize),
    #[error("`{value}` is not a value of the {field} field")]
    Value { field: &'static str, value: String },
    #[error("exactly one of day-of-month and day-of-week must be `?`")]
    QuestionMark,
}

/// What one field may contain. Its first name stands for `min`.
#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    min: u16,
    max: u16,
    names: &'static [&'static str],
}

/// The values that match a field, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set(Vec<u16>);

/// Which days of a month match; days of the week count from 1 on Sunday.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Days {
    OfMonth(Set),
    /// `L`
    LastOfMonth,
    /// `15W`: the weekday of that month nearest to the day.
    NearestWeekday(u16),
    OfWeek(Set),
    /// `6L`
    LastOfWeekday(u16),
    /// `6#3`: the third Friday.
    NthWeekday {
        weekday: u16,
        nth: u16,
    },
}

impl Cron {
    /// Reads the six fields between the brackets.
    pub(super) fn parse(text: &str) -> Result<Self, CronError> {
        let fields: Vec<_> = text.split_whitespace().collect();
        let &[minutes, hours, day_of_month, month, day_of_week, year] = fields.as_slice() else {
            return Err(CronError::FieldCount(fields.len()));
        };
        let days = match (day_of_month, day_of_week) {
            ("?", "?") => return Err(CronError::QuestionMark),
            ("?", weekday) => day_of_week_field(weekday)?,
            (day, "?") => day_of_month_field(day)?,
            _ => return Err(CronError::QuestionMark),
        };
        Ok(Self {
            minutes: MINUTE.set(minutes)?,
            hours: HOUR.set(hours)?,
            days,
            months: MONTH.set(month)?,
            years: YEAR.set(year)?,
        })
    }

    pub(super) fn next_after(&self, zone: &Zone, instant: OffsetDateTime) -> Option<OffsetDateTime> {
        let begin = zone.local(instant)?;
        // Local times that come round twice count the first time, so an instant in the second round is followed by times
        // that are over: the first one that is not is next.
        self.dates_from(begin.date())
            .flat_map(|date| self.times_of(date))
            .filter(|local| *local >= begin.with().second(0).subsec_nanosecond(0).build().unwrap_or(begin))
            .filter_map(|local| zone.instant(local))
            .find(|at| *at > instant)
    }

    /// The matching dates from `first` on.
    fn dates_from(&self, first: Date) -> impl Iterator<Item = Date> {
        let years = self.years.0.iter().filter_map(|year| i16::try_from(*year).ok());
        let months = years.flat_map(|year| self.months.0.iter().map(move |month| (year, *month)));
        months
            .filter_map(|(year, month)| Date::new(year, i8::try_from(month).ok()?, 1).ok())
            .filter(move |month| month.last_of_month() >= first)
            .flat_map(|month| self.days.of(month))
            .filter(move |date| *date >= first)
    }

    fn times_of(&self, date: Date) -> impl Iterator<Item = DateTime> {
        let minutes = |hour: &u16| {
            let hour = i8::try_from(*hour);
            self.minutes.0.iter().filter_map(move |minute| Some((hour.ok()?, i8::try_from(*minute).ok()?)))
        };
        self.hours.0.iter().flat_map(minutes).map(move |(hour, minute)| date.at(hour, minute, 0, 0))
    }
}

impl Days {
    /// The matching days of the month that begins on `month`, ascending.
    fn of(&self, month: Date) -> Vec<Date> {
        let last = month.last_of_month();
        let matches = |date: &Date| match self {
            Self::OfMonth(days) => days.contains(day(*date)),
            Self::LastOfMonth => *date == last,
            Self::NearestWeekday(wanted) => nearest_weekday(last, *wanted) == Some(day(*date)),
            Self::OfWeek(weekdays) => weekdays.contains(weekday(*date)),
            Self::LastOfWeekday(wanted) => weekday(*date) == *wanted && day(last) - day(*date) < 7,
            Self::NthWeekday { weekday: wanted, nth } => weekday(*date) == *wanted && (day(*date) - 1) / 7 + 1 == *nth,
        };
        month.series(jiff::ToSpan::days(1)).take_while(|date| *date <= last).filter(matches).collect()
    }
}

/// The Monday to Friday of the month of `last` that is nearest to a day, without leaving the month; `None` if the month
/// has no such day.
fn nearest_weekday(last: Date, wanted: u16) -> Option<u16> {
    let date = last.with().day(i8::try_from(wanted).ok()?).build().ok()?;
    Some(match date.weekday() {
        Weekday::Saturday if wanted == 1 => wanted + 2,
        Weekday::Saturday => wanted - 1,
        Weekday::Sunday if date == last => wanted - 2,
        Weekday::Sunday => wanted + 1,
        _ => wanted,
    })
}

fn day(date: Date) -> u16 {
    date.day().unsigned_abs().into()
}

fn weekday(date: Date) -> u16 {
    date.weekday().to_sunday_one_offset().unsigned_abs().into()
}

fn day_of_month_field(text: &str) -> Result<Days, CronError> {
    if text == "L" {
        return Ok(Days::LastOfMonth);
    }
    match text.strip_suffix('W') {
        Some(day) => Ok(Days::NearestWeekday(DAY_OF_MONTH.value(day)?)),
        None => Ok(Days::OfMonth(DAY_OF_MONTH.set(text)?)),
    }
}

fn day_of_week_field(text: &str) -> Result<Days, CronError> {
    if text == "L" {
        // The last day of the week.
        return Ok(Days::OfWeek(Set(vec![DAY_OF_WEEK.max])));
    }
    if let Some(weekday) = text.strip_suffix('L') {
        return Ok(Days::LastOfWeekday(DAY_OF_WEEK.value(weekday)?));
    }
    let Some((weekday, nth)) = text.split_once('#') else {
        return Ok(Days::OfWeek(DAY_OF_WEEK.set(text)?));
    };
    let nth = Field { max: 5, names: &[], ..DAY_OF_WEEK }.value(nth)?;
    Ok(Days::NthWeekday { weekday: DAY_OF_WEEK.value(weekday)?, nth })
}

impl Field {
    /// `*`, or a list of values, ranges and steps.
    fn set(&self, text: &str) -> Result<Set, CronError> {
        let mut values = Vec::new();
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(self.step(step)?)),
                None => (item, None),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (self.min, self.max),
                Some((from, to)) => (self.value(from)?, self.value(to)?),
                // `5/15` goes on to the end of the field.
                None => (self.value(range)?, if step.is_some() { self.max } else { self.value(range)? }),
            };
            let span = self.max - self.min + 1;
            // `20-2` goes over midnight, `FRI-MON` over the weekend; years do not come round.
            let end = match from <= to {
                true => to,
                false if self.name != YEAR.name => to + span,
                false => return Err(self.wrong(range)),
            };
            let wrapped = |value| self.min + (value - self.min) % span;
            values.extend((from..=end).step_by(step.unwrap_or(1)).map(wrapped));
        }
        values.sort_unstable();
        values.dedup();
        Ok(Set(values))
    }

    fn value(&self, text: &str) -> Result<u16, CronError> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(index) => u16::try_from(index).ok().map(|index| self.min + index),
            None => text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten(),
        };
        number.filter(|number| (self.min..=self.max).contains(number)).ok_or_else(|| self.wrong(text))
    }

    fn step(&self, text: &str) -> Result<usize, CronError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|step| digits && *step > 0).ok_or_else(|| self.wrong(text))
    }

    fn wrong(&self, value: &str) -> CronError {
        CronError::Value { field: self.name, value: value.to_owned() }
    }
}

impl Set {
    fn contains(&self, value: u16) -> bool {
        self.0.binary_search(&value).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    }

    /// The next runs after `after`, as RFC 3339 in UTC.
    fn runs(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(expression).unwrap();
        let zone = Zone::named(zone).unwrap();
        let mut instant = at(after);
        let next = || {
            instant = cron.next_after(&zone, instant)?;
            Some(instant.format(&Rfc3339).unwrap())
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn the_examples_of_the_aws_documentation_run_as_described() {
        // 2026-01-01 is a Thursday.
        let after = "2026-01-01T00:00:00Z";
        for (expression, expected) in [
            ("0 10 * * ? *", ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"]),
            ("15 12 * * ? *", ["2026-01-01T12:15:00Z", "2026-01-02T12:15:00Z"]),
            ("0 18 ? * MON-FRI *", ["2026-01-01T18:00:00Z", "2026-01-02T18:00:00Z"]),
            ("0 8 1 * ? *", ["2026-01-01T08:00:00Z", "2026-02-01T08:00:00Z"]),
            ("0/15 * * * ? *", ["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]),
            ("0/10 * ? * MON-FRI *", ["2026-01-01T00:10:00Z", "2026-01-01T00:20:00Z"]),
            ("0/5 8-17 ? * MON-FRI *", ["2026-01-01T08:00:00Z", "2026-01-01T08:05:00Z"]),
            ("0/30 20-2 ? * MON-FRI *", ["2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"]),
            ("15 10 ? * 6L 2022-2028", ["2026-01-30T10:15:00Z", "2026-02-27T10:15:00Z"]),
            ("0 9 ? * 2#1 *", ["2026-01-05T09:00:00Z", "2026-02-02T09:00:00Z"]),
            ("0 0 3W * ? *", ["2026-01-02T00:00:00Z", "2026-02-03T00:00:00Z"]),
            ("0 0 L * ? *", ["2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"]),
            ("0 0 ? * L *", ["2026-01-03T00:00:00Z", "2026-01-10T00:00:00Z"]),
        ] {
            assert_eq!(runs(expression, "UTC", after, 2), expected, "{expression}");
        }
    }

    #[test]
    fn days_are_found_in_every_month() {
        for (expression, after, expected) in [
            // No 31st in four months.
            ("0 0 31 * ? *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 29 2 ? *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 L 2 ? *", "2027-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // 2026-08-01 is a Saturday, 2026-05-31 a Sunday: the nearest weekday stays within the month.
            ("0 0 1W 8 ? *", "2026-01-01T00:00:00Z", "2026-08-03T00:00:00Z"),
            ("0 0 31W 5 ? *", "2026-01-01T00:00:00Z", "2026-05-29T00:00:00Z"),
            ("0 0 31W * ? *", "2026-02-01T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 15W 8 ? *", "2026-01-01T00:00:00Z", "2026-08-14T00:00:00Z"),
            ("0 0 16W 8 ? *", "2026-01-01T00:00:00Z", "2026-08-17T00:00:00Z"),
            ("0 0 ? * SUN#5 *", "2026-01-01T00:00:00Z", "2026-03-29T00:00:00Z"),
            ("0 0 ? JAN,Jul sat *", "2026-01-31T00:00:00Z", "2026-07-04T00:00:00Z"),
            ("0 0 1 1 ? 2030/4", "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
            ("59 23 31 12 ? 2199", "2026-01-01T00:00:00Z", "2199-12-31T23:59:00Z"),
            ("10,5-7,50/4 3 * * ? *", "2026-01-01T03:07:00Z", "2026-01-01T03:10:00Z"),
            ("0 22-4/3 * * ? *", "2026-01-01T01:00:00Z", "2026-01-01T04:00:00Z"),
            ("0 0 ? * SAT-MON *", "2026-01-05T00:00:00Z", "2026-01-10T00:00:00Z"),
            ("0 4/10 * * ? *", "2026-01-01T04:00:00Z", "2026-01-01T14:00:00Z"),
        ] {
            assert_eq!(runs(expression, "UTC", after, 1), [expected], "{expression}");
        }
    }

    #[test]
    fn an_expression_can_be_over() {
        assert_eq!(runs("0 0 1 1 ? 2020", "UTC", "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
        assert_eq!(runs("0 0 30 2 ? *", "UTC", "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
    }

    #[test]
    fn the_next_run_is_later_than_the_instant() {
        let expression = "30 10 * * ? *";
        for (after, expected) in [
            ("2026-01-01T10:29:59.999Z", "2026-01-01T10:30:00Z"),
            ("2026-01-01T10:30:00Z", "2026-01-02T10:30:00Z"),
            ("2026-01-01T10:30:00.001Z", "2026-01-02T10:30:00Z"),
        ] {
            assert_eq!(runs(expression, "UTC", after, 1), [expected], "{after}");
        }
    }

    #[test]
    fn times_are_those_of_the_time_zone() {
        let nine = "0 9 * * ? *";
        assert_eq!(runs(nine, "Asia/Shanghai", "2026-06-01T02:00:00Z", 1), ["2026-06-02T01:00:00Z"]);
        // The offset changes between the two.
        let expected = ["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z"];
        assert_eq!(runs(nine, "Europe/Berlin", "2026-03-28T00:00:00Z", 2), expected);
        // The date line: it is Monday there and Sunday here.
        assert_eq!(runs("0 0 ? * MON *", "Pacific/Kiritimati", "2026-01-03T00:00:00Z", 1), ["2026-01-04T10:00:00Z"]);
    }

    #[test]
    fn a_time_that_the_clocks_skip_does_not_run() {
        // New York, 2026-03-08: 02:00 EST becomes 03:00 EDT.
        let expected = ["2026-03-07T07:30:00Z", "2026-03-09T06:30:00Z"];
        assert_eq!(runs("30 2 * * ? *", "America/New_York", "2026-03-07T00:00:00Z", 2), expected);
        let quarters = ["2026-03-08T06:45:00Z", "2026-03-08T07:00:00Z", "2026-03-08T07:15:00Z"];
        assert_eq!(runs("0/15 * * * ? *", "America/New_York", "2026-03-08T06:30:00Z", 3), quarters);
    }

    #[test]
    fn a_time_that_the_clocks_repeat_runs_once() {
        // New York, 2026-11-01: 02:00 EDT becomes 01:00 EST.
        let expected = ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"];
        assert_eq!(runs("30 1 * * ? *", "America/New_York", "2026-11-01T00:00:00Z", 2), expected);
        let halves = ["2026-11-01T05:30:00Z", "2026-11-01T07:00:00Z"];
        assert_eq!(runs("0/30 * * * ? *", "America/New_York", "2026-11-01T05:00:00Z", 2), halves);
        // Asked in the middle of the second round.
        assert_eq!(runs("0/30 * * * ? *", "America/New_York", "2026-11-01T06:10:00Z", 1), ["2026-11-01T07:00:00Z"]);
        // Lord Howe Island moves by half an hour.
        let expected = ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"];
        assert_eq!(runs("45 1 * * ? *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", 2), expected);
    }

    #[test]
    fn what_is_no_cron_expression_is_refused() {
        for text in [
            "",
            "* * * * *",
            "* * * * * *",
            "* * ? * ? *",
            "* * 1 * 1 *",
            "60 * * * ? *",
            "-1 * * * ? *",
            "+1 * * * ? *",
            "* 24 * * ? *",
            "* * 0 * ? *",
            "* * 32 * ? *",
            "* * * 13 ? *",
            "* * * FOO ? *",
            "* * ? * 0 *",
            "* * ? * 8 *",
            "* * ? * 2#6 *",
            "* * ? * 2#0 *",
            "* * ? * #1 *",
            "* * ? * 2#1,3#1 *",
            "* * W * ? *",
            "* * LW * ? *",
            "* * 1,L * ? *",
            "* * * * ? 1969",
            "* * * * ? 2200",
            "*/0 * * * ? *",
            "*/ * * * ? *",
            "1- * * * ? *",
            "0 0 * * ? 2030-2026",
            "1,,2 * * * ? *",
            "? * * * ? *",
        ] {
            assert!(Cron::parse(text).is_err(), "{text}");
        }
        let error = Cron::parse("0 25 * * ? *").unwrap_err();
        assert_eq!(error, CronError::Value { field: "hours", value: "25".into() });
    }

    /// One field: `*`, a value, a list, a range or a step.
    fn field(min: u16, max: u16) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (min..=max).prop_map(|value| value.to_string()),
            (min..=max, min..=max).prop_map(|(a, b)| format!("{a},{b}")),
            (min..=max, min..=max).prop_map(|(a, b)| format!("{a}-{b}")),
            (min..=max, 1_u16..=20).prop_map(|(a, step)| format!("{a}/{step}")),
        ]
    }

    fn days() -> impl Strategy<Value = (String, String)> {
        prop_oneof![
            field(1, 31).prop_map(|day| (day, "?".to_owned())),
            Just(("L".to_owned(), "?".to_owned())),
            (1_u16..=31).prop_map(|day| (format!("{day}W"), "?".to_owned())),
            field(1, 7).prop_map(|weekday| ("?".to_owned(), weekday)),
            (1_u16..=7).prop_map(|weekday| ("?".to_owned(), format!("{weekday}L"))),
            (1_u16..=7, 1_u16..=5).prop_map(|(weekday, nth)| ("?".to_owned(), format!("{weekday}#{nth}"))),
        ]
    }

    proptest! {
        #[test]
        fn runs_ascend_and_match_their_fields(
            (minutes, hours, (day, weekday), months) in (field(0, 59), field(0, 23), days(), field(1, 12)),
            zone in prop::sample::select(vec!["UTC", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe"]),
            begin in 1_700_000_000_i64..1_900_000_000,
        ) {
            let text = format!("{minutes} {hours} {day} {months} {weekday} *");
            let cron = Cron::parse(&text).unwrap();
            let zone = Zone::named(zone).unwrap();
            let mut instant = OffsetDateTime::from_unix_timestamp(begin).unwrap();
            for _ in 0..20 {
                let Some(next) = cron.next_after(&zone, instant) else { break };
                prop_assert!(next > instant, "{text}");
                let local = zone.local(next).unwrap();
                prop_assert!(cron.minutes.contains(local.minute().unsigned_abs().into()), "{text}: {local}");
                prop_assert!(cron.hours.contains(local.hour().unsigned_abs().into()), "{text}: {local}");
                prop_assert!(cron.months.contains(local.month().unsigned_abs().into()), "{text}: {local}");
                prop_assert!(cron.days.of(local.date().first_of_month()).contains(&local.date()), "{text}: {local}");
                prop_assert_eq!(local.second(), 0);
                prop_assert_eq!(zone.instant(local), Some(next), "the first time the clocks show it");
                // Nothing was skipped: from anywhere between, the same run is next.
                let between = instant + (next - instant) / 2;
                prop_assert_eq!(cron.next_after(&zone, between), Some(next), "{}", text);
                instant = next;
            }
        }
    }
}
