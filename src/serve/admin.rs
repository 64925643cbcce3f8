//! The relay's own pages: whether it is alive, whether it is ready, how its parts are, and its
//! metrics.
//!
//! They answer without waiting for anything, so a probe is answered even when the database is away.
//! Connections are the [`server`](super::server)'s affair.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Response, StatusCode, header::HeaderValue};

use super::problem::{JSON, problem, respond};
use super::router::Router;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The version tells Prometheus how to parse it.
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A page that answers at once.
type AdminPage = fn(&Admin) -> Response<Full<Bytes>>;

/// Answers for one process.
#[derive(Debug, Clone)]
pub struct Admin {
    pub status: Status,
    pub metrics: Arc<Metrics>,
}

impl Admin {
    /// `GET /live`, `/ready`, `/status` and `/metrics`.
    #[must_use]
    pub fn router<B: 'static>(&self) -> Router<B> {
        let pages: [(_, AdminPage); 4] = [
            ("/live", Self::live),
            ("/ready", Self::ready),
            ("/status", Self::status),
            ("/metrics", Self::metrics),
        ];
        pages.into_iter().fold(Router::default(), |router, (path, page)| {
            let admin = self.clone();
            router.with(Method::GET, path, move |_| std::future::ready(page(&admin)))
        })
    }

    /// Whether a restart would help: it would if a part of the relay is stuck, and not if the
    /// database is away, since every part still moves then.
    fn live(&self) -> Response<Full<Bytes>> {
        let stuck: Vec<_> = self.status.stuck().iter().map(ToString::to_string).collect();
        if stuck.is_empty() {
            respond(StatusCode::OK, TEXT, "live\n".into())
        } else {
            problem(StatusCode::SERVICE_UNAVAILABLE, &stuck.join(", "))
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match self.status.ready() {
            Ok(()) => respond(StatusCode::OK, TEXT, "ready\n".into()),
            Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    /// Always 200: for looking, not for probes.
    fn status(&self) -> Response<Full<Bytes>> {
        respond(StatusCode::OK, JSON, format!("{}\n", self.status.report()))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        respond(StatusCode::OK, PROMETHEUS, self.metrics.render())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use hyper::Request;
    use hyper::header::{ALLOW, CONTENT_TYPE};
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Clock;
    use crate::serve::problem::PROBLEM;
    use crate::stopper::Stopper;

    fn admin() -> (Admin, Stopper) {
        let stopper = Stopper::new();
        let status = Status::new(Clock, stopper.clone());
        (Admin { status, metrics: Arc::new(Metrics::new()) }, stopper)
    }

    async fn ask(admin: &Admin, method: Method, path: &str) -> Response<Full<Bytes>> {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        admin.router().answer(request).await
    }

    async fn get(admin: &Admin, path: &str) -> (u16, String) {
        let response = ask(admin, Method::GET, path).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn detail(admin: &Admin, path: &str) -> (u16, String) {
        let (status, body) = get(admin, path).await;
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["status"], status);
        (status, problem["detail"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn ready_says_why_not() {
        let (admin, stopper) = admin();
        assert_eq!(detail(&admin, "/ready").await, (503, "starting".to_owned()));
        admin.status.set_ready(Ok(()));
        assert_eq!(get(&admin, "/ready").await, (200, "ready\n".to_owned()));
        stopper.stop();
        assert_eq!(detail(&admin, "/ready").await, (503, "stopping".to_owned()));
    }

    #[tokio::test]
    async fn live_names_what_is_stuck() {
        let (admin, stopper) = admin();
        stopper.stop();
        assert_eq!(
            get(&admin, "/live").await.0,
            200,
            "a process that is stopping is not to be killed"
        );
        let pulse = admin.status.pulse("route", Duration::ZERO);
        // Until the clock has moved on from the pulse's start.
        while Clock.since(Clock.instant()).is_zero() {}
        let (status, detail) = detail(&admin, "/live").await;
        assert_eq!(status, 503);
        assert!(detail.starts_with("route has not moved for "), "{detail}");
        drop(pulse);
        assert_eq!(get(&admin, "/live").await.0, 200);
    }

    #[tokio::test]
    async fn status_tells_what_the_parts_say_of_themselves() {
        let (admin, _) = admin();
        admin.status.tell("spool", json!({"files": 3}));
        let (status, body) = get(&admin, "/status").await;
        let said: Value = serde_json::from_str(&body).unwrap();
        let expected = json!({
            "ready": false, "why": "starting", "stuck": [], "spool": {"files": 3},
            "last_success": {}, "last_error": null, "lease_age_seconds": null, "terms_ended": 0,
        });
        assert_eq!((status, said), (200, expected));
    }

    #[tokio::test]
    async fn metrics_are_in_the_format_that_prometheus_reads() {
        let (admin, _) = admin();
        admin.metrics.bells.increment(1);
        let response = ask(&admin, Method::GET, "/metrics").await;
        assert_eq!(response.headers()[CONTENT_TYPE], PROMETHEUS);
        assert!(get(&admin, "/metrics").await.1.contains("posthaste_bells_total 1"));
    }

    #[tokio::test]
    async fn any_other_request_gets_a_problem() {
        let (admin, _) = admin();
        assert_eq!(detail(&admin, "/").await.0, 404);
        assert_eq!(detail(&admin, "/ready/").await.0, 404);
        let refused = ask(&admin, Method::POST, "/ready").await;
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()[ALLOW], "GET, HEAD");
        assert_eq!(refused.headers()[CONTENT_TYPE], PROBLEM);
        assert_eq!(ask(&admin, Method::HEAD, "/metrics").await.status(), 200);
    }
}
