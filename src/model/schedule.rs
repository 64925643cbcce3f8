//! When a delivery is tried again, and when it is given up.
//!
//! The n-th retry comes after `n^5 s` and 30 s to 10 min of jitter: ten retries within about three
//! days. Endpoints may have a fixed list of delays instead. [`verdict`](super::verdict) asks;
//! Postgres adds the delay to its own clock.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::fmt::{rfc2822, strtime};
use jiff::tz::TimeZone;

use super::endpoint::Endpoint;

/// The first attempt and ten retries.
const MAX_ATTEMPTS: u32 = 11;

/// No delay is longer, whatever the settings say: a year is as good as never, and the sum with a
/// timestamp must stay a timestamp.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// No delay is shorter: a schedule of zeros would have a receiver that rejects an event asked
/// hundreds of times a second.
const SHORTEST: Duration = Duration::from_secs(1);

/// When to try again, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    pub delays: Delays,
    /// Attempts in all, the first one too. `None`: eleven, or one more than a fixed list is long.
    pub max_attempts: Option<u32>,
    /// No retry is made when the event is older.
    pub max_age: Option<Duration>,
}

/// How long to wait before each retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delays {
    /// `min(retry^exponent s + uniform(jitter_min, jitter_max), cap)`.
    Formula { exponent: u32, jitter_min: Duration, jitter_max: Duration, cap: Duration },
    /// The n-th retry waits for the n-th of these, at least 1 s; later ones for the last.
    Fixed(Vec<Duration>),
}

impl Default for Delays {
    /// The cap leaves the tenth retry whole (`10^5 s`, nearly 28 h): at 24 h it would cut that one
    /// alone, and the ten would end nearly four hours early.
    fn default() -> Self {
        Self::Formula {
            exponent: 5,
            jitter_min: Duration::from_secs(30),
            jitter_max: Duration::from_secs(10 * 60),
            cap: Duration::from_secs(28 * 60 * 60),
        }
    }
}

impl Schedule {
    /// This schedule with the endpoint's own settings in place of the relay's.
    #[must_use]
    pub fn for_endpoint(&self, endpoint: &Endpoint) -> Cow<'_, Self> {
        match (&endpoint.schedule, endpoint.max_attempts) {
            (None, None) => Cow::Borrowed(self),
            (None, own) => Cow::Owned(Self { max_attempts: own, ..self.clone() }),
            (Some(list), own) => Cow::Owned(Self {
                delays: Delays::Fixed(list.clone()),
                max_attempts: own, // our own number was chosen for our own delays
                max_age: self.max_age,
            }),
        }
    }

    /// Attempts in all, the first one too; at least 1. An empty list means no retries.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        let chosen = match &self.delays {
            Delays::Fixed(list) if list.is_empty() => Some(1),
            Delays::Fixed(list) => self.max_attempts.or(u32::try_from(list.len() + 1).ok()),
            Delays::Formula { .. } => self.max_attempts,
        };
        chosen.unwrap_or(MAX_ATTEMPTS).max(1)
    }

    /// How long to wait before the retry of this number, counted from 1. `draw` is from 0 to 1 and
    /// decides the jitter.
    #[must_use]
    pub fn delay(&self, retry: u32, draw: f64) -> Duration {
        let delay = match &self.delays {
            Delays::Formula { exponent, jitter_min, jitter_max, cap } => {
                let base = Duration::from_secs(u64::from(retry).saturating_pow(*exponent));
                let span = jitter_max.saturating_sub(*jitter_min);
                base.saturating_add(*jitter_min).saturating_add(portion(span, draw)).min(*cap)
            }
            Delays::Fixed(list) => {
                let index = usize::try_from(retry.saturating_sub(1)).unwrap_or(usize::MAX);
                list.get(index).or(list.last()).copied().unwrap_or(LONGEST)
            }
        };
        delay.clamp(SHORTEST, LONGEST)
    }
}

/// The wait from `now` that a receiver's `Retry-After` asks for: seconds, or an HTTP date (zero if
/// it has passed). `None` if it is neither. The caller decides how far to follow it.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim_ascii();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(value.parse().map_or(Duration::MAX, Duration::from_secs)); // too many digits
    }
    let date = http_date(value, now)?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// A date in one of the three forms that RFC 9110, 5.6.7 has recipients understand: that of mail,
/// that of RFC 850, that of C's `asctime`.
fn http_date(value: &str, now: Timestamp) -> Option<Timestamp> {
    let mail = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    if let Ok(date) = mail.parse_timestamp(value) {
        return Some(date);
    }
    let read = |format| strtime::parse(format, value).ok();
    let (date, two_digits) = read("%A, %d-%b-%y %H:%M:%S GMT")
        .map(|date| (date, true))
        .or_else(|| read("%a %b %e %H:%M:%S %Y").map(|date| (date, false)))?;
    let date = Date::new(date.year()?, date.month()?, date.day()?)
        .ok()?
        .to_datetime(Time::new(date.hour()?, date.minute()?, date.second()?, 0).ok()?);
    let in_year = |year| date.with().year(year).build().ok()?.to_zoned(TimeZone::UTC).ok();
    if !two_digits {
        return in_year(date.year()).map(|date| date.timestamp());
    }
    // More than 50 years ahead means the last year that ended with these digits.
    let present = now.to_zoned(TimeZone::UTC).year();
    let year = present - present.rem_euclid(100) + date.year().rem_euclid(100);
    in_year(if year > present + 50 { year - 100 } else { year }).map(|date| date.timestamp())
}

/// The drawn part of a duration. A draw outside of 0 to 1 is brought to the nearer end, NaN to 0.
pub(super) fn portion(whole: Duration, draw: f64) -> Duration {
    let draw = if draw.is_nan() { 0.0 } else { draw.clamp(0.0, 1.0) };
    Duration::try_from_secs_f64(whole.as_secs_f64() * draw).unwrap_or(whole).min(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::endpoint::{BodyFormat, OnDead};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NEARLY_ONE: f64 = 1.0 - f64::EPSILON;

    fn fixed(list: &[u64]) -> Schedule {
        let list = list.iter().map(|&s| Duration::from_secs(s)).collect();
        Schedule { delays: Delays::Fixed(list), ..Schedule::default() }
    }

    fn endpoint(schedule: Option<Vec<Duration>>, max_attempts: Option<u32>) -> Endpoint {
        Endpoint {
            id: 1,
            revision: 1,
            tenant: None,
            url: "https://example.com/".to_owned(),
            body_format: BodyFormat::default(),
            headers: Vec::new(),
            secrets: Vec::new(),
            timeout: None,
            max_attempts,
            schedule,
            max_concurrency: None,
            rate_limit: None,
            on_dead: OnDead::default(),
        }
    }

    fn seconds(value: &str) -> Option<u64> {
        let now = "1994-11-06T08:49:07Z".parse().unwrap();
        retry_after(value, now).map(|d| d.as_secs())
    }

    #[test]
    fn the_nth_retry_comes_after_n_to_the_fifth_and_jitter() {
        let schedule = Schedule::default();
        for (retry, base) in [(1, 1), (2, 32), (3, 243), (5, 3_125), (10, 100_000)] {
            assert_eq!(schedule.delay(retry, 0.0), Duration::from_secs(base + 30));
            assert_eq!(schedule.delay(retry, 0.5), Duration::from_secs(base + 315));
            let longest = Duration::from_secs(base + 600);
            assert!(longest - schedule.delay(retry, NEARLY_ONE) < SECOND / 1_000);
        }
    }

    #[test]
    fn a_second_lies_between_two_attempts_whatever_the_schedule_says() {
        let mut schedule = fixed(&[0]);
        assert_eq!(schedule.delay(1, 0.0), SECOND);
        schedule.delays = Delays::Formula {
            exponent: 0,
            jitter_min: Duration::ZERO,
            jitter_max: Duration::ZERO,
            cap: Duration::from_millis(1),
        };
        assert_eq!(schedule.delay(9, 0.0), SECOND);
    }

    #[test]
    fn ten_retries_take_2_6_days() {
        let schedule = Schedule::default();
        assert_eq!(schedule.attempts(), 11);
        let total = |draw| (1..=10).map(|n| schedule.delay(n, draw).as_secs()).sum::<u64>();
        assert_eq!(total(0.0), 220_825 + 10 * 30);
        assert_eq!(total(0.5), 220_825 + 10 * 315);
        let days = Duration::from_secs(total(0.5)).as_secs_f64() / 86_400.0;
        assert_eq!(format!("{days:.1}"), "2.6", "what README, CHECKLIST and default.toml say");
    }

    #[test]
    fn no_delay_of_the_formula_passes_the_cap() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.delay(11, 0.0), Duration::from_secs(28 * 3_600));
        schedule.delays = Delays::Formula {
            exponent: 5,
            jitter_min: Duration::from_secs(30),
            jitter_max: Duration::from_secs(600),
            cap: Duration::from_secs(24 * 3_600),
        };
        assert_eq!(schedule.delay(10, 0.0), Duration::from_secs(24 * 3_600));
    }

    #[test]
    fn a_fixed_list_is_followed_and_its_last_entry_repeats() {
        let schedule = fixed(&[5, 300, 1_800]);
        let delays: Vec<_> = (1..=5).map(|n| schedule.delay(n, 0.7).as_secs()).collect();
        assert_eq!(delays, [5, 300, 1_800, 1_800, 1_800]);
        assert_eq!(schedule.attempts(), 4);
        assert_eq!(Schedule { max_attempts: Some(9), ..schedule }.attempts(), 9);
    }

    #[test]
    fn an_empty_list_means_no_retries() {
        assert_eq!(Schedule { max_attempts: Some(9), ..fixed(&[]) }.attempts(), 1);
    }

    #[test]
    fn an_endpoint_may_have_its_own_list_and_count() {
        let ours = Schedule { max_attempts: Some(11), ..Schedule::default() };
        assert_eq!(*ours.for_endpoint(&endpoint(None, None)), ours);
        assert_eq!(ours.for_endpoint(&endpoint(None, Some(2))).attempts(), 2);
        let list = Some(vec![SECOND, SECOND]);
        assert_eq!(ours.for_endpoint(&endpoint(list.clone(), None)).attempts(), 3);
        assert_eq!(ours.for_endpoint(&endpoint(list, Some(7))).attempts(), 7);
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:40:00 GMT"), Some(0));
        assert_eq!(seconds("Tue, 06 Nov 1994 08:49:37 GMT"), Some(30), "a wrong weekday is borne");
        for date in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(seconds(date), Some(30), "{date}");
        }
        let nonsense = ["Sunday, 31-Feb-94 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 CET"];
        for nonsense in nonsense {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
        for nonsense in ["", "soon", "-5", "+5", "1.5", "12s", "1994-11-06T08:49:37Z", "\u{0}"] {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn two_digits_of_a_year_mean_no_more_than_50_years_ahead() {
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let year = |digits: &str| {
            let date = format!("Saturday, 28-Nov-{digits} 12:00:00 GMT");
            http_date(&date, now).unwrap().to_zoned(TimeZone::UTC).year()
        };
        assert_eq!(["26", "27", "76", "77", "94"].map(year), [2026, 2027, 2076, 1977, 1994]);
        // Also where the century turns.
        let now: Timestamp = "2099-11-28T12:00:00Z".parse().unwrap();
        let date = http_date("Sunday, 28-Nov-99 12:01:00 GMT", now).unwrap();
        assert_eq!(date.duration_since(now).as_secs(), 60);
    }

    fn delays() -> impl Strategy<Value = Delays> {
        prop_oneof![
            any::<(u32, Duration, Duration, Duration)>().prop_map(|(exponent, min, max, cap)| {
                Delays::Formula { exponent, jitter_min: min, jitter_max: max, cap }
            }),
            prop::collection::vec(any::<Duration>(), 0..4).prop_map(Delays::Fixed),
        ]
    }

    proptest! {
        #[test]
        fn no_setting_and_no_draw_makes_it_panic_or_pass_its_bounds(
            delays in delays(),
            max_attempts: Option<u32>,
            retry: u32,
            draw in prop::num::f64::ANY,
        ) {
            let schedule = Schedule { delays, max_attempts, max_age: None };
            let delay = schedule.delay(retry, draw);
            prop_assert!(delay <= LONGEST);
            if let Delays::Formula { cap, .. } = schedule.delays {
                prop_assert!(delay <= cap);
            }
            prop_assert!(schedule.attempts() >= 1);
        }

        #[test]
        fn a_later_retry_never_comes_sooner(retry in 1..u32::MAX, draw in 0.0..1.0) {
            let schedule = Schedule::default();
            prop_assert!(schedule.delay(retry + 1, draw) >= schedule.delay(retry, draw));
        }

        #[test]
        fn no_retry_after_makes_it_panic(value: String, now in -9_999_999_999_i64..9_999_999_999) {
            let wait = retry_after(&value, Timestamp::from_second(now).unwrap());
            prop_assert!(wait.is_none() || !value.trim_ascii().is_empty());
        }

        #[test]
        fn every_date_that_a_server_writes_is_read(
            now in -9_999_999_999_i64..9_999_999_999, ahead in 0..9_999_999_999_u64,
        ) {
            let now = Timestamp::from_second(now).unwrap();
            let date = now + Duration::from_secs(ahead);
            let text = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
            prop_assert_eq!(retry_after(&text, now), Some(Duration::from_secs(ahead)));
        }
    }
}
