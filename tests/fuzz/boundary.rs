//! Turns a case into bytes of HTTP, changes those too, and sends them over a connection to the door
//! as it is: its conversation, its bounds, its words. Only what keeps a webhook is ours, and says
//! by chance that it is stored, known, spooled or cannot be kept.
//!
//! The runtime's clock stands still until everybody waits, so time-outs pass at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use posthaste::clock::Present;
use posthaste::config::{self, IngestSettings, Sources};
use posthaste::ingest::in_memory::{InMemoryIngest, Kept};
use posthaste::model::incoming::Incoming;
use posthaste::model::secret::Secret;
use posthaste::model::selector::is_json;
use posthaste::observe::metrics::Metrics;
use posthaste::signing::verify::{Scheme, Verifier};
use posthaste::store::received::Stored;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::answers::{self, Answer};
use super::case::{Bytes, Case, NAMES, change_bytes};
use super::{TOLERANCE, judge, oracle};

/// More than a head and a body may take, and the last word. On the clock that stands still.
const ENDS: Duration = Duration::from_secs(60);
/// Both are lent to senders one piece at a time.
const BUFFER: usize = 8 * 1024;
/// Long against every body of a case but one.
const MAX_BODY: usize = 16 * 1024;
const INSIDE: &str = "10.1.2.3";
const OUTSIDE: &str = "192.0.2.7";

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new()));

/// One source. Every header that proves anything is kept, so that what is kept can be
/// judged.
static SETTINGS: LazyLock<IngestSettings> = LazyLock::new(|| {
    let headers = NAMES.join(", ");
    let flags = [
        ("database.url", "postgres://localhost/x".to_owned()),
        ("ingest.sources.source.verify", "none".to_owned()),
        ("ingest.sources.source.headers", headers),
        ("ingest.sources.source.clients", "10.0.0.0/8".to_owned()),
        ("ingest.sources.source.max_body", format!("{MAX_BODY}B")),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value)).into();
    let config = config::load(&Sources { flags, ..Sources::default() });
    config.expect("the settings fit").ingest
});

/// How a sender ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// It has said everything, and listens.
    SaysNoMore,
    /// It could say more, and does not.
    Waits,
    /// It hangs up and hears nothing.
    HangsUp,
}

/// How it is sent, and what becomes of what is taken.
struct Way {
    outside: bool,
    leaving: Leaving,
    /// It is sent in so many pieces.
    pieces: usize,
    /// It is sent a second time on the same connection.
    twice: bool,
    /// Whatever is changed on the way: then the door may read something else than was meant.
    changes: usize,
    fates: [u8; 2],
}

/// A webhook that was taken, and the answer its sender is to have.
struct Took {
    incoming: Incoming,
    kept: Option<Kept>,
}

impl Way {
    fn choose(bytes: &mut Bytes<'_>) -> Self {
        Self {
            outside: bytes.byte().is_multiple_of(16),
            leaving: match bytes.byte() % 8 {
                0 => Leaving::HangsUp,
                1 | 2 => Leaving::Waits,
                _ => Leaving::SaysNoMore,
            },
            pieces: [1, 1, 2, 7][usize::from(bytes.byte() % 4)],
            twice: bytes.byte().is_multiple_of(4),
            changes: [0, 0, 1, 2][usize::from(bytes.byte() % 4)],
            fates: [bytes.byte(), bytes.byte()],
        }
    }

    fn peer(&self) -> IpAddr {
        if self.outside { OUTSIDE } else { INSIDE }.parse().expect("an address")
    }
}

/// Every request that was found in the bytes, with its answer, and the end of the connection.
pub(super) fn serve(case: &Case, verifier: &Verifier, bytes: &mut Bytes<'_>) -> Vec<String> {
    let way = Way::choose(bytes);
    let one = request(case, bytes);
    let mut sent = if way.twice { [&one[..], &one].concat() } else { one };
    for _ in 0..way.changes {
        change_bytes(&mut sent, bytes);
    }
    let (said, took) = converse(case, &way, &sent);
    let answers = answers::read(&said, &case.secrets);
    let is_text = all_proofs_are_text(&sent);
    for took in &took {
        fits_its_columns(case, &way, took);
        // what is no text is read and not kept, so what is kept may prove less than what came
        if is_text {
            is_as_it_was_signed(case, took);
        }
    }
    if way.leaving == Leaving::HangsUp {
        return vec!["through HTTP: hung up".to_owned()];
    }
    each_hears_what_became_of_it(case, &answers, &took);
    let is_whole = way.changes == 0 && case.is_faithful();
    let as_sent = is_whole.then(|| what_is_said(case, verifier, (&way, &sent), &answers, &took));
    let mut became: Vec<_> =
        answers.iter().map(|answer| format!("through HTTP: {}", answer.status)).collect();
    became.extend(as_sent.flatten());
    if answers.is_empty() {
        became.push("through HTTP: not even an answer".to_owned());
    }
    became
}

/// The bytes of the answers on the connection, and the webhooks that were taken.
fn converse(case: &Case, way: &Way, sent: &[u8]) -> (Vec<u8>, Vec<Took>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut settings = SETTINGS.clone();
    let source = settings.sources.get_mut("source").expect("it is set above");
    source.verify = case.scheme;
    source.secrets = case.secrets.iter().cloned().map(Secret::new).collect();
    source.tolerance = TOLERANCE;
    let now = Timestamp::from_second(case.now).expect("the case keeps within the range");
    let present = Present::still_at(now);
    let in_memory =
        InMemoryIngest::new(&settings, &METRICS, present, way.peer()).expect("usable secrets");
    let mut took: Vec<Took> = Vec::new();
    let keep = |incoming| {
        let number = took.len();
        let webhook_id = Some(format!("evt_{number}"));
        let kept = match way.fates[number.min(1)] % 8 {
            0 => None,
            1 => Some(Kept::Spooled),
            2 => Some(Kept::Stored(Stored { is_new: false, webhook_id })),
            3 => Some(Kept::Stored(Stored { is_new: false, webhook_id: None })),
            _ => Some(Kept::Stored(Stored { is_new: true, webhook_id })),
        };
        took.push(Took { incoming, kept: kept.clone() });
        kept
    };
    let said = runtime.block_on(async {
        let (client, server) = tokio::io::duplex(BUFFER);
        let both = async { tokio::join!(in_memory.hold(server, keep), send(client, way, sent)).1 };
        let ended = tokio::time::timeout(ENDS, both).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {:?}", String::from_utf8_lossy(sent)))
    });
    (said, took)
}

async fn send(client: tokio::io::DuplexStream, way: &Way, sent: &[u8]) -> Vec<u8> {
    let (mut hearing, mut saying) = tokio::io::split(client);
    let piece = sent.len().div_ceil(way.pieces).max(1);
    let said = async {
        for piece in sent.chunks(piece) {
            // a request that is refused need not have been read to the end
            if saying.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if way.leaving == Leaving::SaysNoMore {
            drop(saying.shutdown().await);
        }
    };
    let mut heard = Vec::new();
    if way.leaving == Leaving::HangsUp {
        drop(tokio::time::timeout(Duration::from_millis(1), said).await);
        return heard;
    }
    let (_, read) = tokio::join!(said, hearing.read_to_end(&mut heard));
    read.expect("memory can be read");
    heard
}

fn all_proofs_are_text(sent: &[u8]) -> bool {
    sent.split(|&byte| byte == b'\n').all(|line| {
        let is_proof = |name: &&str| {
            line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name.as_bytes()))
        };
        std::str::from_utf8(line).is_ok() || !NAMES.iter().any(is_proof)
    })
}

/// However the bytes were changed: a webhook that is kept was signed with the secret.
fn is_as_it_was_signed(case: &Case, took: &Took) {
    let Incoming { headers, payload, .. } = &took.incoming;
    let kept: BTreeMap<String, String> = serde_json::from_str(headers).expect("an object of texts");
    let said: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let body = payload.as_str().as_bytes();
    assert!(oracle::believes(case, &said, body), "kept what nobody signed: {case:?} as {said:?}");
}

fn fits_its_columns(case: &Case, way: &Way, took: &Took) {
    assert!(!way.outside, "took what came from outside: {case:?}");
    let Incoming { source, sender_id, event_type, payload, .. } = &took.incoming;
    let body = payload.as_str();
    assert!(body.len() <= MAX_BODY && is_json(body), "{case:?}");
    assert_eq!(source, "source");
    for name in [sender_id, event_type] {
        assert!((1..=256).contains(&name.chars().count()), "{name:?}");
        assert!(!name.contains(char::is_control), "{name:?}");
    }
    assert!(event_type == "source" || event_type.starts_with("source."), "{event_type:?}");
    assert!(!event_type.contains([' ', '*']) && !event_type.contains(".."), "{event_type:?}");
}

/// Every webhook that was kept was answered with a 2xx and no other was, each in turn.
fn each_hears_what_became_of_it(case: &Case, answers: &[Answer], took: &[Took]) {
    let is_challenge = |answer: &Answer| {
        case.scheme == Scheme::Slack && answer.status == 200 && !answer.body["challenge"].is_null()
    };
    let mut took = took.iter();
    for answer in answers.iter().filter(|answer| !is_challenge(answer)) {
        let cannot = answer.status == 503;
        if !cannot && answer.status >= 300 {
            continue;
        }
        let kept = took.next().map(|took| &took.kept);
        let kept = kept.unwrap_or_else(|| panic!("{answer:?} of nothing that was kept: {case:?}"));
        let status = match kept {
            None => {
                assert_eq!(answer.body["detail"], "it cannot be kept now");
                503
            }
            Some(Kept::Stored(stored)) => {
                let word = if stored.is_new { "stored" } else { "duplicate" };
                assert_eq!(answer.body["status"], word);
                assert_eq!(answer.body["id"].is_string(), stored.webhook_id.is_some());
                200
            }
            Some(Kept::Spooled) => {
                assert_eq!(answer.body["status"], "spooled");
                202
            }
            Some(Kept::Challenge(_)) => unreachable!("nobody keeps a question"),
        };
        assert_eq!(answer.status, status);
    }
    assert!(took.next().is_none(), "kept, and its sender heard nothing: {case:?}");
}

/// A request that came as it was sent is answered as its bounds, its verifier and its body have it.
fn what_is_said(
    case: &Case,
    verifier: &Verifier,
    (way, sent): (&Way, &[u8]),
    answers: &[Answer],
    took: &[Took],
) -> Option<String> {
    let first = answers.first().expect("what was sent as it should be is answered");
    let judged = judge(case, verifier, &case.header_map(), &case.body);
    let believed = judged == "believed";
    // All but a signature is in the head, and is judged before the body is read. A length that the
    // head tells goes before that.
    let by_its_head = !believed && judged != "refused: the signature does not match";
    let is_chunked = sent.windows(18).any(|at| at == b"Transfer-Encoding:");
    let text = std::str::from_utf8(&case.body).ok().filter(|text| is_json(text));
    let fits = case.body.len() <= MAX_BODY;
    let wanted = match () {
        () if way.outside => Some(403),
        () if !(fits || is_chunked && by_its_head) => Some(413),
        () if !believed => Some(401),
        () if text.is_none() => Some(400),
        () => None,
    };
    if let Some(wanted) = wanted {
        assert_eq!(first.status, wanted, "{case:?}");
        return None;
    }
    // a changed header may name the event as none can be called
    let is_taken = [200, 202, 503].contains(&first.status);
    assert!(is_taken || !case.untouched && first.status == 422, "{first:?} of {case:?}");
    if !case.untouched {
        return None;
    }
    // what is refused or away ends no conversation that was in order
    assert_eq!(answers.len(), 1 + usize::from(way.twice), "{case:?}");
    for took in took {
        assert_eq!(Some(took.incoming.payload.as_str()), text);
    }
    Some("signed, sent and not changed".to_owned())
}

fn request(case: &Case, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut sent = b"POST /in/source HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    sent.extend(b"Content-Type: application/json\r\n");
    for (name, value) in &case.headers {
        sent.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    if bytes.byte().is_multiple_of(4) {
        sent.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in case.body.chunks(1000) {
            sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            sent.extend([chunk, b"\r\n"].concat());
        }
        sent.extend(b"0\r\n\r\n");
    } else {
        sent.extend(format!("Content-Length: {}\r\n\r\n", case.body.len()).into_bytes());
        sent.extend(&case.body);
    }
    sent
}
