//! Reads `rate(..)`, `cron(..)` and `at(..)`.

use jiff::civil::DateTime;
use time::Duration;

use super::Kind;
use super::cron::{Cron, CronError};

/// What a schedule expression says.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    Rate(Duration),
    Cron(Box<Cron>),
    At(DateTime),
}

/// Why an expression is refused.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    #[error("it is none of `rate(..)`, `cron(..)`, `at(..)`")]
    Form,
    #[error("a rate is a positive whole number and `minutes`, `hours` or `days`")]
    Rate,
    #[error("a time is written `yyyy-mm-ddThh:mm:ss`")]
    At,
    #[error("the cron expression is wrong")]
    Cron(#[from] CronError),
}

impl Expression {
    pub(super) fn parse(text: &str, kind: Kind) -> Result<Self, ExpressionError> {
        let (form, rest) = text.trim().split_once('(').ok_or(ExpressionError::Form)?;
        let inner = rest.strip_suffix(')').ok_or(ExpressionError::Form)?;
        match form {
            "rate" => rate(inner, kind).map(Self::Rate).ok_or(ExpressionError::Rate),
            "cron" => Ok(Self::Cron(Box::new(Cron::parse(inner)?))),
            "at" => at(inner).map(Self::At).ok_or(ExpressionError::At),
            _ => Err(ExpressionError::Form),
        }
    }
}

fn rate(text: &str, kind: Kind) -> Option<Duration> {
    let mut words = text.split_whitespace();
    let (count, unit) = (words.next()?.parse::<u32>().ok()?, words.next()?);
    if words.next().is_some() || count == 0 {
        return None;
    }
    let plural = unit.ends_with('s');
    let seconds: i64 = match unit.strip_suffix('s').unwrap_or(unit) {
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        _ => return None,
    };
    // Rules insist on the grammar of the number.
    if kind == Kind::Rule && plural == (count == 1) {
        return None;
    }
    Some(Duration::seconds(seconds * i64::from(count)))
}

fn at(text: &str) -> Option<DateTime> {
    (text.len() == "yyyy-mm-ddThh:mm:ss".len()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, minutes) in
            [("rate(1 minute)", 1), ("rate(5 minutes)", 5), ("rate(1 hour)", 60), ("rate(7 days)", 7 * 24 * 60)]
        {
            match Expression::parse(text, Kind::Rule) {
                Ok(Expression::Rate(period)) => assert_eq!(period, Duration::minutes(minutes), "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_aws_refuses_is_refused() {
        for text in [
            "",
            "rate",
            "rate()",
            "rate(0 minutes)",
            "rate(-1 minutes)",
            "rate(1 minutes)",
            "rate(5 minute)",
            "rate(1 week)",
            "rate(5 minutes 3)",
            "rate(1.5 hours)",
            "Rate(5 minutes)",
            "rate(5 minutes",
            "every(5 minutes)",
            "at(2026-11-20)",
            "at(2026-11-20T13:00)",
            "at(2026-02-30T13:00:00)",
            "at(2026-11-20T13:00:00Z)",
        ] {
            assert!(Expression::parse(text, Kind::Rule).is_err(), "{text}");
        }
        for text in ["rate(1 minutes)", "rate(5 minute)"] {
            assert!(Expression::parse(text, Kind::Scheduler).is_ok(), "{text}");
        }
    }
}
