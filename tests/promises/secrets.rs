//! Signing secrets: which one signs, for how long, and that none is shown.

use ring::signature::{ED25519, UnparsedPublicKey};
use tokio_postgres::Client;

use crate::support::{
    Receiver, Relay, Reply, TestDatabase, attempted, believed, event, settled, until, value,
};

/// 32 bytes: 0, 1, 2, … 31. Its public key is written out in [`PUBLIC_KEY`].
const SEED: &str = "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PUBLIC_KEY: [u8; 32] = [
    0x03, 0xa1, 0x07, 0xbf, 0xf3, 0xce, 0x10, 0xbe, 0x1d, 0x70, 0xdd, 0x18, 0xe7, 0x4b, 0xc0, 0x99,
    0x67, 0xe4, 0xd6, 0x30, 0x9b, 0xa5, 0x0d, 0x5f, 0x1d, 0xdc, 0x86, 0x64, 0x12, 0x55, 0x31, 0xb8,
];

#[tokio::test]
async fn an_old_secret_signs_for_as_long_as_it_is_kept_and_then_no_more() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let added = "select endpoint_id, secret from posthaste.add_endpoint($1)";
    let added = client.query_one(added, &[&receiver.url("/")]).await.unwrap();
    let (id, old): (i64, String) = (added.get(0), added.get(1));
    let _relay = Relay::start(&database).await;
    let rotate = format!("select posthaste.rotate_secret({id}, '1.5 seconds')");
    let fresh: String = value(&client, &rotate).await;
    let ended = "select expires_at <= clock_timestamp() from posthaste.endpoint_secrets
                  where expires_at is not null";

    until("the old secret to sign no more", || async {
        // Asked before: what is signed with it afterwards is signed too late.
        let ended: bool = value(&client, ended).await;
        event("order.paid").add(&client).await;
        let received = receiver.next().await;
        assert!(believed(&received, &fresh), "the new secret signs from the first moment");
        let both = believed(&received, &old);
        assert!(!(ended && both), "it still signs though its time is over");
        (!both).then_some(())
    })
    .await;
    let overlapped = receiver.received().iter().any(|one| believed(one, &old));
    assert!(overlapped, "for a while both signed");
    assert!(value::<bool>(&client, ended).await, "it stopped before its time");
}

#[tokio::test]
async fn an_ed25519_secret_gives_a_signature_that_its_public_key_verifies() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    let added = "select endpoint_id, secret from posthaste.add_endpoint($1)";
    let added = client.query_one(added, &[&receiver.url("/")]).await.unwrap();
    let (id, symmetric): (i64, String) = (added.get(0), added.get(1));
    let rotate = format!("select posthaste.rotate_secret({id}, '1 hour', '{SEED}')");
    assert_eq!(value::<String>(&client, &rotate).await, SEED);
    let _relay = Relay::start(&database).await;
    event("order.paid").with("payload", r#"{"total":1}"#).add(&client).await;

    let received = receiver.next().await;
    assert!(believed(&received, &symmetric), "a receiver that knows v1 alone reads on");
    let signatures: Vec<_> = received.header("webhook-signature").unwrap().split(' ').collect();
    assert_eq!(signatures.len(), 2);
    let asymmetric = signatures.iter().find_map(|one| one.strip_prefix("v1a,")).unwrap();
    let statement = format!("select decode('{asymmetric}', 'base64')");
    let signature: Vec<u8> = value(&client, &statement).await;
    let head = format!("{}.{}.", received.id(), received.header("webhook-timestamp").unwrap());
    let signed = [head.as_bytes(), &received.body].concat();
    let key = UnparsedPublicKey::new(&ED25519, PUBLIC_KEY);
    key.verify(&signed, &signature).unwrap();
    key.verify(&[&signed[..], b" "].concat(), &signature).unwrap_err();
}

/// The text of every view, all that an operator can look at.
async fn everything_visible(client: &Client) -> String {
    let views = "select string_agg(format('select string_agg(v::text, chr(10)) from posthaste.%I v', table_name), ' union all ')
                   from information_schema.views where table_schema = 'posthaste'";
    let statement: String = value(client, views).await;
    let rows = client.query(&statement, &[]).await.unwrap();
    rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect()
}

#[tokio::test]
async fn secrets_and_payloads_are_neither_in_the_log_nor_in_the_views() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500), Reply::status(503), Reply::DropAfterReading]);
    let add = "select endpoint_id, secret from posthaste.add_endpoint(
        $1, schedule => '{1 s}', headers => '{\"authorization\": \"Bearer t0k3n\"}')";
    let added = client.query_one(add, &[&receiver.url("/visible")]).await.unwrap();
    let (id, mut secrets) = (added.get::<_, i64>(0), vec![added.get::<_, String>(1)]);
    let relay = Relay::on(&database.url()).set("log.level", "trace").start().await;
    for seed in ["null", &format!("'{SEED}'")] {
        let rotate = format!("select posthaste.rotate_secret({id}, '1 hour', {seed})");
        secrets.push(value(&client, &rotate).await);
        event("order.paid").with("payload", r#"{"card": "4711-0815"}"#).add(&client).await;
    }
    settled(&client).await;
    // One that cannot be used at all: valid base64, but its public half is another key's.
    let mismatched = format!("whsk_{}==", "A".repeat(86));
    let rotate = format!("select posthaste.rotate_secret({id}, '0', '{mismatched}')");
    secrets.push(value(&client, &rotate).await);
    let unsigned = event("order.paid").with("payload", r#"{"card": "4711-0815"}"#);
    let unsigned = unsigned.add(&client).await;
    let attempt = attempted(&client, unsigned, 1).await.remove(0);
    assert_eq!(
        (attempt.outcome.as_str(), attempt.cause.as_deref()),
        ("refused", Some("bad_endpoint"))
    );

    let (log, seen) = (relay.log(), everything_visible(&client).await);
    assert!(
        log.contains(r#""level":"DEBUG""#) && seen.contains("/visible"),
        "there is much to see"
    );
    let kept = secrets.iter().map(|secret| secret.split_once('_').unwrap().1);
    for hidden in kept.chain(["4711-0815", "t0k3n"]) {
        assert!(!log.contains(hidden), "the log says {hidden}");
        assert!(!seen.contains(hidden), "a view says {hidden}");
    }
}
