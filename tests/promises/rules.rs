//! Rows of `posthaste.rules`, from the table to deliveries and endpoints: the preset for failed
//! connections, development tunnels, and rows that are changed while a relay runs.
//!
//! Tunnels answer here as their hosts do, under names below `localhost`, by rules that are copies
//! of the shipped ones but for the host. That the shipped hosts match is pinned beside the rules
//! (`src/model/rules/tests.rs`).

use std::io::Write as _;
use std::net::TcpListener;

use tokio_postgres::Client;

use crate::support::{
    Attempt, Authority, NewRow, Receiver, Relay, RelayBuilder, Reply, TestDatabase, about,
    attempted, doctor, endpoint, event, holds, inconsistencies, settled, value,
};

/// The answer of today's dead tunnel.
const OFFLINE: &str = "The endpoint abc.ngrok-free.app is offline.\n\nERR_NGROK_3200";

fn rule(name: &str, action: &str) -> NewRow {
    NewRow::into("rules").with("name", name).with("action", action).with("priority", 1)
}

/// `outcome cause verdict: reason`.
fn told(attempt: &Attempt) -> String {
    let Attempt { outcome, cause, status, verdict, reason, .. } = attempt;
    let status = status.map(|status| status.to_string());
    let what = status.or_else(|| cause.clone()).unwrap_or_default();
    let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{outcome} {what} {verdict}{reason}")
}

/// `health` of an endpoint, or that it is gone.
async fn health(client: &Client, endpoint: i64) -> String {
    let statement = format!(
        "select coalesce((select health from posthaste.endpoint_status where endpoint_id = {endpoint}), 'gone')"
    );
    value(client, &statement).await
}

/// An endpoint that fails in its own way, and gets this event alone.
struct Failing {
    name: &'static str,
    id: i64,
    event: i64,
}

impl Failing {
    async fn new(client: &Client, name: &'static str, url: &str) -> Self {
        let row = endpoint(url).with("subscriptions", "{none}").with("timeout", "500 ms");
        let id = row.with("schedule", "{1 h}").add(client).await;
        let event = event("order.paid").with("endpoint_id", id).add(client).await;
        Self { name, id, event }
    }

    async fn first_attempt(&self, client: &Client) -> Attempt {
        attempted(client, self.event, 1).await.remove(0)
    }
}

/// A relay that trusts this authority.
fn trusting(database: &TestDatabase, ca: &tempfile::NamedTempFile) -> RelayBuilder {
    Relay::on(&database.url()).set("delivery.ca_file", ca.path().to_str().unwrap())
}

/// One endpoint for each way in which no answer is had.
async fn unanswering(client: &Client, ours: &Authority) -> (Vec<Failing>, Vec<Receiver>) {
    let mut failing = Vec::new();
    let mut kept = Vec::new();
    for (name, identity) in [
        ("expired", ours.expired_identity(&["localhost"])),
        ("wrong name", ours.identity(&["elsewhere.example"])),
        ("unknown issuer", Authority::named("a stranger").identity(&["localhost"])),
    ] {
        let receiver = Receiver::start_tls(identity).await;
        failing.push(Failing::new(client, name, &receiver.url_by_name("/")).await);
        kept.push(receiver);
    }
    for (name, reply) in [("silent", Reply::Hang), ("hangs up", Reply::DropAfterReading)] {
        let receiver = Receiver::start().await;
        receiver.otherwise(reply);
        failing.push(Failing::new(client, name, &receiver.url("/")).await);
        kept.push(receiver);
    }
    // RFC 6761: no server is asked for a name under `invalid`, and it does not exist.
    failing.push(Failing::new(client, "no name", "https://nowhere.invalid/").await);
    let taken_and_let_go = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    failing
        .push(Failing::new(client, "nobody there", &format!("http://{taken_and_let_go}/")).await);
    (failing, kept)
}

#[tokio::test]
async fn the_keygen_preset_retries_tls_errors_disables_without_connection_and_ends_on_timeouts() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    assert_eq!(value::<i32>(&client, "select posthaste.load_rules('keygen')").await, 11);
    assert_eq!(value::<i32>(&client, "select posthaste.load_rules('keygen')").await, 0);
    let ours = Authority::new();
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(ours.pem().as_bytes()).unwrap();
    let (failing, _kept) = unanswering(&client, &ours).await;
    let _relay = trusting(&database, &ca).start().await;

    for (endpoint, (said, health_then)) in failing.iter().zip([
        ("unreachable tls_expired retry: rule 'keygen: TLS: tls_expired'", "flowing"),
        ("unreachable tls_wrong_name retry: rule 'keygen: TLS: tls_wrong_name'", "flowing"),
        ("unreachable tls_unknown_issuer retry: rule 'keygen: TLS: tls_unknown_issuer'", "flowing"),
        ("timed_out headers dead: rule 'keygen: timed out'", "flowing"),
        ("unreachable closed dead: rule 'keygen: connection: closed'", "disabled"),
        ("unreachable dns dead: rule 'keygen: connection: dns'", "disabled"),
        (
            "unreachable connection_refused dead: rule 'keygen: connection: connection_refused'",
            "disabled",
        ),
    ]) {
        let attempt = endpoint.first_attempt(&client).await;
        let found = told(&attempt);
        assert!(found.starts_with(said), "{}: {found}", endpoint.name);
        let id = endpoint.id;
        let same = format!(
            "health = '{health_then}' from posthaste.endpoint_status where endpoint_id = {id}"
        );
        holds(&client, &same).await;
    }
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn by_default_nothing_of_that_is_final() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let ours = Authority::new();
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(ours.pem().as_bytes()).unwrap();
    let (failing, _kept) = unanswering(&client, &ours).await;
    let _relay = trusting(&database, &ca).start().await;
    for endpoint in failing {
        let attempt = endpoint.first_attempt(&client).await;
        assert_eq!(
            (attempt.verdict.as_str(), &attempt.reason),
            ("retry", &None),
            "{}",
            endpoint.name
        );
        assert_eq!(health(&client, endpoint.id).await, "flowing", "{}", endpoint.name);
    }
}

#[tokio::test]
async fn a_preset_counts_while_it_is_loaded_and_a_rule_while_it_is_enabled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::Hang);
    let relay = Relay::on(&database.url()).set("relay.heartbeat", "100ms").start().await;
    let ask = async |name| {
        Failing::new(&client, name, &receiver.url("/")).await.first_attempt(&client).await
    };
    assert_eq!(told(&ask("before").await), "timed_out headers retry");
    client.batch_execute("select posthaste.load_rules('keygen')").await.unwrap();
    have_been_read(&relay, 1).await;
    assert!(told(&ask("loaded").await).starts_with("timed_out headers dead: rule 'keygen: "));
    let off = "update posthaste.rules set enabled = false where name = 'keygen: timed out'";
    client.batch_execute(off).await.unwrap();
    have_been_read(&relay, 2).await;
    assert_eq!(told(&ask("off").await), "timed_out headers retry");
    let mine = rule("mine", "dead").with("outcome", "timed_out").with("priority", 1000);
    mine.add(&client).await;
    have_been_read(&relay, 3).await;
    assert!(told(&ask("mine").await).starts_with("timed_out headers dead: rule 'mine'"));
    let again = "update posthaste.rules set enabled = true, action = 'retry' where name = 'keygen: timed out'";
    client.batch_execute(again).await.unwrap();
    have_been_read(&relay, 4).await;
    assert!(told(&ask("first").await).starts_with("timed_out headers retry: rule 'keygen: "));
    // It takes its rules away, changed or not, and no other.
    assert_eq!(value::<i32>(&client, "select posthaste.unload_rules('keygen')").await, 11);
    have_been_read(&relay, 5).await;
    assert!(told(&ask("unloaded").await).starts_with("timed_out headers dead: rule 'mine'"));
    let shipped = "select count(*) from posthaste.rules where preset = 'shipped'";
    assert_eq!(value::<i64>(&client, shipped).await, 16);
}

/// Waits until the relay has said so often that it has read the rules again.
async fn have_been_read(relay: &Relay, times: usize) {
    crate::support::until("the relay to read the rules again", || async {
        (relay.log().matches("the rules have changed").count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_rule_that_this_relay_cannot_read_is_named_and_the_others_hold() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.otherwise(Reply::status(422).body("no such user"));
    // To PostgreSQL the stars say that a plain text follows; to the relay they repeat nothing.
    // The table refuses it now; a version before took it.
    let unchecked = "alter table posthaste.rules disable trigger rules_are_checked";
    client.batch_execute(unchecked).await.unwrap();
    rule("of another make", "retry").with("body_pattern", "***=no such (user").add(&client).await;
    let checked = "alter table posthaste.rules enable trigger rules_are_checked";
    client.batch_execute(checked).await.unwrap();
    let plain = rule("plain", "dead").with("body_pattern", "(?i)NO SUCH").with("priority", 2);
    plain.add(&client).await;
    let relay = Relay::start(&database).await;
    let complaint = relay.logs("ignoring a rule that this relay cannot evaluate").await;
    assert!(complaint.contains("rule `of another make` cannot be used"), "{complaint}");
    let attempt =
        Failing::new(&client, "422", &receiver.url("/")).await.first_attempt(&client).await;
    assert_eq!(told(&attempt), "answered 422 dead: rule 'plain': answered 422");
}

#[tokio::test]
async fn a_dead_tunnel_is_deleted_one_without_server_retried_and_one_that_times_out_disabled() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let copies = "insert into posthaste.rules (name, priority, host, status, outcome, body_pattern, action)
         select 'copy of ' || name, priority, '*.tunnel.localhost', status, outcome, body_pattern, action
           from posthaste.rules where name like 'ngrok.io: %'";
    assert_eq!(client.execute(copies, &[]).await.unwrap(), 3);
    // The rows of each domain say the same as these.
    let domains = "select count(distinct host) from posthaste.rules r where preset = 'shipped' and 3 = (
         select count(*) from posthaste.rules o join posthaste.rules c on c.host = '*.tunnel.localhost'
            and (c.priority, c.status, c.outcome, c.action) = (o.priority, o.status, o.outcome, o.action)
            and c.body_pattern is not distinct from o.body_pattern
          where o.host = r.host)";
    assert_eq!(value::<i64>(&client, domains).await, 5);

    let mut failing = Vec::new();
    let mut kept = Vec::new();
    for (name, host, reply) in [
        ("offline", "a.tunnel.localhost", Reply::status(404).body(OFFLINE)),
        ("not found", "b.tunnel.localhost", Reply::status(404).body("Tunnel b.ngrok.io not found")),
        ("own 404", "c.tunnel.localhost", Reply::status(404).body("no route to /hooks")),
        ("no server", "d.tunnel.localhost", Reply::status(502)),
        ("timed out", "e.tunnel.localhost", Reply::status(504)),
        ("no tunnel", "elsewhere.localhost", Reply::status(404).body(OFFLINE)),
        ("no tunnel, late", "localhost", Reply::status(504)),
    ] {
        let receiver = Receiver::start().await;
        receiver.otherwise(reply);
        let url = format!("http://{host}:{}/", receiver.address().port());
        failing.push(Failing::new(&client, name, &url).await);
        kept.push(receiver);
    }
    let _relay = Relay::start(&database).await;
    let dead = "answered 404 dead: rule 'copy of ngrok.io: no tunnel': answered 404";
    for (endpoint, (said, then)) in failing.iter().zip([
        (dead, "gone"),
        (dead, "gone"),
        ("answered 404 retry", "flowing"),
        (
            "answered 502 retry: rule 'copy of ngrok.io: no server behind the tunnel': answered 502",
            "flowing",
        ),
        ("answered 504 dead: rule 'copy of ngrok.io: timed out': answered 504", "disabled"),
        ("answered 404 retry", "flowing"),
        ("answered 504 retry", "flowing"),
    ]) {
        assert_eq!(told(&endpoint.first_attempt(&client).await), said, "{}", endpoint.name);
        crate::support::until(endpoint.name, || async {
            (health(&client, endpoint.id).await == then).then_some(())
        })
        .await;
    }
    client
        .batch_execute("select posthaste.cancel_endpoint(id) from posthaste.endpoints")
        .await
        .unwrap();
    settled(&client).await;
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// Patterns, and whether the table takes them. Those that it takes are read alike by both engines.
const PATTERNS: &[(&str, bool)] = &[
    ("Tunnel.*not found", true),
    ("(?i)tunnel .+ not found|endpoint .+ is offline|ERR_NGROK_3200", true),
    (r"\w{20}", true),
    (r"\w{255}", true),
    (r"^\s*<html", true),
    ("found$", true),
    ("[^a-z]not", true),
    ("[[:alpha:]]+ed", true),
    ("[[:space:][:digit:]]x", true),
    (r"[\d.]+\.ngrok", true),
    (r"(?:a|b){2,3}c", true),
    ("a{2,}", true),
    (r"\{\[\(", true),
    (r"\.\*\+\?\|\^\$\\\/\-\_\&\~", true),
    ("[a-]", true),
    ("[-a]", true),
    ("[a&b]", true),
    ("a]b}", true),
    ("(?is)NOT.FOUND", true),
    (r"\D\W\S", true),
    ("a|", true),
    ("x*?y+?", true),
    ("größe.", true),
    (r"(?i)(?:\w\W[^\d]){90}", true),
    ("[a-z&&[^b]]", false),
    ("[a--b]", false),
    ("[a~~b]", false),
    ("[a[b]", false),
    ("[]a]", false),
    ("[[:word:]]", false),
    ("[[:<:]]not", false),
    ("[[.a.]]", false),
    (r"[\w-z]", false),
    (r"\bnot\b", false),
    (r"\mnot\M", false),
    (r"\ynot\y", false),
    (r"\Anot\Z", false),
    (r"\x41", false),
    (r"\u0041", false),
    (r"\<p\>", false),
    (r"(a)\1", false),
    ("a(?=b)", false),
    ("(?<!a)b", false),
    ("(?m)^a", false),
    ("(?x) a", false),
    ("a(?i)b", false),
    ("(?<name>a)", false),
    ("***=a.b", false),
    ("a{,3}", false),
    ("{a}", false),
    ("a**", false),
    ("(open", false),
    (r"(\w{200}){200}", false),
    (r"((a{9}){9}){9}", false),
];

const BODIES: &[&str] = &[
    "",
    "Tunnel abc.ngrok.io\nnot found",
    "TUNNEL abc.ngrok.io not found",
    "<html>\n<p>The endpoint\tis offline</p>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aab abbc AAb xyy yx 1x 12.ngrok {[( .*+?|^$\\/-_&~ a]b}",
    "not\nfound\n",
    "größer\nGRÖSSE",
    "ERR_NGROK_3200",
];

#[tokio::test]
async fn what_the_table_takes_is_what_the_relay_reads() {
    use posthaste::model::outcome::{Answer, Outcome};
    use posthaste::model::rules::{Rule, RuleRow, RuleSet};
    let database = TestDatabase::new().await;
    let client = database.client().await;
    for (n, (pattern, taken)) in PATTERNS.iter().enumerate() {
        let row = rule(&format!("rule {n}"), "dead").with("body_pattern", pattern);
        let stored = client.query(&row.sql(), &[]).await;
        assert_eq!(stored.is_ok(), *taken, "{pattern}: {stored:?}");
        let Ok(_) = stored else {
            let error = stored.unwrap_err();
            let constraint = error.as_db_error().and_then(|error| error.constraint());
            assert_eq!(constraint, Some("body_pattern_is_a_regular_expression"), "{pattern}");
            continue;
        };
        let read = Rule::new(RuleRow {
            name: (*pattern).to_owned(),
            body: Some((*pattern).to_owned()),
            action: "dead".to_owned(),
            ..RuleRow::default()
        });
        let rules = RuleSet::new(vec![read.unwrap_or_else(|error| panic!("{}", error.in_full()))]);
        for body in BODIES {
            let answer = Answer { status: 404, body: (*body).into(), ..Answer::default() };
            let ours = rules.first_match("a.example", "a", &Outcome::Answered(answer)).is_some();
            let theirs = client.query_one("select $1::text ~ $2", &[body, pattern]).await.unwrap();
            assert_eq!(ours, theirs.get::<_, bool>(0), "{pattern:?} on {body:?}");
        }
    }
}

#[tokio::test]
async fn the_table_takes_the_causes_and_hosts_that_the_relay_reads() {
    use posthaste::model::outcome::{Cause, Phase, Refusal};
    use posthaste::model::rules::{Rule, RuleRow};
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let known = Phase::ALL.map(Phase::as_str).into_iter().chain(Cause::ALL.map(Cause::as_str));
    let known = known.chain(Refusal::ALL.map(Refusal::as_str)).collect::<Vec<_>>();
    let odd = [
        "no",
        "not",
        "tls_",
        "tl",
        "connection",
        "bad",
        "forbidden",
        "",
        "DNS",
        "dns ",
        "tls_expried",
        "timed_out",
    ];
    for (n, cause) in known.iter().chain(&odd).enumerate() {
        let row = rule(&format!("cause {n}"), "dead").with("cause", *cause);
        let stored = client.query(&row.sql(), &[]).await.map(drop);
        let read = Rule::new(RuleRow {
            cause: Some((*cause).to_owned()),
            action: "dead".to_owned(),
            ..RuleRow::default()
        });
        assert_eq!(stored.is_ok(), read.is_ok(), "{cause:?}: {stored:?}");
        assert!(read.is_ok() || !known.contains(cause), "{cause}");
    }
    let hosts = [
        "a.example",
        "*.example",
        "A.EXAMPLE",
        "a.example,*.b.example",
        ".example",
        "*..example",
        "*",
        "*.",
        "a*",
        "",
        "a.example,",
        ",a",
        "a/b",
        "a@b",
        "a b",
    ];
    for (n, host) in hosts.iter().enumerate() {
        let row = rule(&format!("host {n}"), "dead").with("host", *host);
        let stored = client.query(&row.sql(), &[]).await.map(drop);
        let read = Rule::new(RuleRow {
            host: Some((*host).to_owned()),
            action: "dead".to_owned(),
            ..RuleRow::default()
        });
        assert_eq!(stored.is_ok(), read.is_ok(), "{host:?}: {stored:?}");
    }
}

#[tokio::test]
async fn a_rule_that_cannot_be_used_is_named_with_the_reason() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    // As a version before might have left it.
    client
        .batch_execute(
            r"alter table posthaste.rules disable trigger rules_are_checked;
              insert into posthaste.rules (name, body_pattern, action) values ('odd', 'a(?=b)', 'dead');
              alter table posthaste.rules enable trigger rules_are_checked",
        )
        .await
        .unwrap();
    let relay = Relay::start(&database).await;
    let logged = relay.logs("ignoring a rule that this relay cannot evaluate").await;
    assert!(logged.contains("look-around"), "{logged}");
    let (code, said) = doctor(&database.url(), &[]).await;
    let finding = about(&said, "rules");
    assert_eq!((code, finding["state"].as_str()), (Some(0), Some("warning")), "{said:#}");
    let found = finding["detail"].as_str().unwrap();
    assert!(
        found.starts_with("rule `odd` cannot be used: ") && found.contains("look-around"),
        "{found}"
    );
}
