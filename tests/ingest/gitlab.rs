//! GitLab sends each webhook once. Here it goes through us to a service that is down for ten
//! minutes, and arrives as GitLab sent it. Intake and relay run in this process on a present that
//! the test moves ahead.
//!
//! The bodies follow the examples of <https://docs.gitlab.com/user/project/integrations/webhook_events/>,
//! cut short, with what is hard to keep byte for byte: escapes, numbers, white space, characters of
//! every length. The headers are those of
//! <https://docs.gitlab.com/user/project/integrations/webhooks/#delivery-headers>.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthaste::clock::Present;
use posthaste::stopper::Stopper;
use standardwebhooks::Webhook;
use tokio_postgres::Client;

use crate::support::{
    Received, Receiver, Reply, TestDatabase, endpoint, holds, inconsistencies, post, run_inside,
    settled, take_in_inside, until, value, within,
};

const MINUTE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a secret token";
/// GitLab's name of each hook, and its body.
const HOOKS: [(&str, &str); 5] = [
    ("Push Hook", include_str!("gitlab_push.json")),
    ("Merge Request Hook", include_str!("gitlab_merge_request.json")),
    ("Pipeline Hook", include_str!("gitlab_pipeline.json")),
    ("Issue Hook", include_str!("gitlab_issue.json")),
    ("Note Hook", include_str!("gitlab_note.json")),
];

/// A webhook as GitLab sends it.
#[derive(Debug, Clone)]
struct Hook {
    project: u32,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// Of two projects: one proves itself by its secret token, the other by its signing token.
struct Gitlab {
    signing: Webhook,
    sent: Vec<Hook>,
}

impl Gitlab {
    /// The next of a project's, which is taken in before this returns.
    async fn send(&mut self, door: SocketAddr, project: u32) {
        let number = self.sent.len();
        let (kind, body) = HOOKS[number / 2 % HOOKS.len()];
        let body = body.replace("\"id\": 15", &format!("\"id\": {project}"));
        let body = body.replace("\"id\":15", &format!("\"id\":{project}"));
        let uuid = |what: u32| format!("{what:08x}-f57b-4e6e-9fac-{number:012x}");
        let mut headers = vec![
            ("x-gitlab-event", kind.to_owned()),
            ("x-gitlab-instance", "https://gitlab.example.com".to_owned()),
            ("x-gitlab-webhook-uuid", uuid(1)),
            ("x-gitlab-event-uuid", uuid(2)),
            ("idempotency-key", uuid(3)),
            ("content-type", "application/json".to_owned()),
        ];
        if project == 15 {
            headers.push(("x-gitlab-token", TOKEN.to_owned()));
        } else {
            let (id, at) = (uuid(4), jiff::Timestamp::now().as_second());
            let signature = self.signing.sign(&id, at, body.as_bytes()).unwrap();
            headers.push(("webhook-id", id));
            headers.push(("webhook-timestamp", at.to_string()));
            headers.push(("webhook-signature", signature));
        }
        let path = if project == 15 { "/in/gitlab" } else { "/in/signed" };
        let sent: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = post(door, path, &sent, &body).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &"stored".into()));
        self.sent.push(Hook { project, headers, body });
    }

    /// Every webhook came once, as it was sent; those of a project in the order in which they were
    /// sent, if that is owed.
    fn came(&self, received: &[Received], in_order: bool) {
        assert_eq!(received.len(), self.sent.len());
        for project in [15, 16] {
            let mut sent: Vec<_> = self.sent.iter().filter(|it| it.project == project).collect();
            let key = |received: &&Received| {
                sent.iter().position(|hook| {
                    let key = hook.headers.iter().find(|(name, _)| *name == "idempotency-key");
                    key.map(|(_, value)| value.as_str()) == received.header("idempotency-key")
                })
            };
            let mut came: Vec<_> = received.iter().filter(|it| key(it).is_some()).collect();
            if !in_order {
                came.sort_by_key(key);
            }
            assert_eq!(came.len(), sent.len());
            for (came, hook) in came.into_iter().zip(sent.drain(..)) {
                assert_eq!(came.body, hook.body.as_bytes(), "{came:?}");
                for (name, value) in &hook.headers {
                    assert_eq!(came.header(name), Some(value.as_str()), "{name}: {came:?}");
                }
                if project == 16 {
                    let headers = came.headers.iter().map(|(name, value)| {
                        let name = hyper::header::HeaderName::try_from(name).unwrap();
                        (name, value.parse().unwrap())
                    });
                    self.signing.verify(&came.body, &headers.collect()).unwrap();
                }
            }
        }
    }
}

async fn count(client: &Client, what: &str) -> i64 {
    value(client, &format!("select count(*) from posthaste.{what}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gitlab_sends_once_reaches_a_service_that_was_down_for_ten_minutes() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let service = Receiver::start().await;
    // Connections break there before anything is read.
    service.otherwise(Reply::DropBeforeReading);
    let raw = |path| endpoint(&service.url(path)).with("body_format", "raw");
    raw("/ordered").with("ordered", true).add(&client).await;
    raw("/any").with("subscriptions", "{gitlab.*,signed.*}").add(&client).await;

    let signing = format!("whsec_{}", STANDARD.encode([7; 24]));
    let (stopper, present) = (Stopper::new(), Present::movable());
    let settings = [
        ("ingest.sources.gitlab.verify", "gitlab"),
        ("ingest.sources.gitlab.secret", TOKEN),
        ("ingest.sources.gitlab.headers", "x-gitlab-token"),
        ("ingest.sources.gitlab.ordering_key", "$.project.id"),
        ("ingest.sources.signed.verify", "gitlab"),
        ("ingest.sources.signed.secret", &*signing),
        ("ingest.sources.signed.headers", "webhook-signature"),
        ("ingest.sources.signed.ordering_key", "$.project.id"),
    ];
    let (door, taking_in) = take_in_inside(&database, &settings, stopper.clone()).await;
    let relay = run_inside(&database, &[], present.clone(), stopper.clone());

    let story = async {
        let mut gitlab = Gitlab { signing: Webhook::new(&signing).unwrap(), sent: Vec::new() };
        for minute in 0..10 {
            for project in [15, 16] {
                gitlab.send(door, project).await;
            }
            // The first four are tried at once; then the endpoints are paused.
            let tried = 2 * (minute + 1).min(2);
            holds(
                &client,
                &format!("count(distinct event_id) >= {tried} from posthaste.delivery_attempts"),
            )
            .await;
            present.advance(MINUTE);
        }
        let paused = "exists (select from posthaste.endpoint_status \
                       where url like '%/any' and health = 'paused')";
        holds(&client, paused).await;
        assert_eq!(service.received().len(), 0);
        let owed = i64::try_from(2 * gitlab.sent.len()).unwrap();
        assert_eq!(count(&client, "deliveries").await, owed, "nothing is given up");
        let types = "select string_agg(distinct event_type, ' ' order by event_type) \
                     from posthaste.outbox where event_type like 'gitlab.%'";
        assert_eq!(
            value::<String>(&client, types).await,
            "gitlab.issue_hook gitlab.merge_request_hook gitlab.note_hook gitlab.pipeline_hook gitlab.push_hook"
        );

        service.otherwise(Reply::ok());
        until("everything to arrive", || {
            present.advance(MINUTE);
            let all = service.received().len() >= 2 * gitlab.sent.len();
            async move { all.then_some(()) }
        })
        .await;
        settled(&client).await;
        let (ordered, any): (Vec<_>, Vec<_>) =
            service.received().into_iter().partition(|received| received.path == "/ordered");
        gitlab.came(&ordered, true);
        gitlab.came(&any, false);
        for path in ["/ordered", "/any"] {
            let retried = format!(
                "max(number) > 1 and count(*) filter (where verdict = 'retry') > 1 \
                 and count(*) filter (where verdict = 'delivered') = {} \
                 and count(*) filter (where verdict in ('dead', 'cancelled')) = 0 \
                 from posthaste.delivery_attempts a join posthaste.endpoints e on e.id = a.endpoint_id \
                 where e.url like '%{path}'",
                gitlab.sent.len()
            );
            holds(&client, &retried).await;
            // It comes back by itself, without being enabled.
            let flows = format!(
                "exists (select from posthaste.endpoint_status \
                          where url like '%{path}' and health = 'flowing')"
            );
            holds(&client, &flows).await;
        }
        assert_eq!(inconsistencies(&client).await, [""; 0]);
        stopper.stop();
    };
    let all = async { tokio::join!(relay, taking_in, story) };
    Box::pin(within("the minutes to pass", all)).await.0.unwrap();
}
