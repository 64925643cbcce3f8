//! The receiving process: a hyper server that answers 200 at once and remembers what came, when.
//!
//! One thread and no locks, so that on a small machine it takes no more than one core from what is
//! measured; and as many connections as the system allows. `posthaste::receiver::listener` bounds
//! connections, sizes and times, which would be measured with the relay. This one is the same for
//! the relay and for the bare client. [`inbox`](super::inbox) is its handle.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use posthaste::clock::Clock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

/// How many arrivals there have been since they were last taken.
pub(crate) const COUNT: &str = "/_/count";
/// All of them, a line each: path, `webhook-id`, when, in microseconds of Unix time, and how many
/// requests were waiting for an answer then.
pub(crate) const TAKE: &str = "/_/take";
/// A post here is read, answered with 204 and forgotten.
pub(crate) const BARE: &str = "/bare";
/// A post here is read and never answered.
pub(crate) const HANG: &str = "/hang";

/// A post below this is answered after [`SLOW_FOR`].
pub(crate) const SLOW: &str = "/slow";
/// That long.
pub(crate) const SLOW_FOR: Duration = Duration::from_millis(50);

/// A post here while it is held is never answered; else it is answered at once.
pub(crate) const HELD: &str = "/held";
/// From now on that is held …
pub(crate) const HOLD: &str = "/_/hold";
/// … and from now on it is not. What came before stays without an answer.
pub(crate) const RELEASE: &str = "/_/release";

/// A post here is answered after the pace, however many there are at once …
pub(crate) const PACED: &str = "/paced";
/// … and here they are answered one after the other.
pub(crate) const SERIAL: &str = "/serial";
/// Followed by a number of milliseconds: from now on that is the pace.
pub(crate) const PACE: &str = "/_/pace/";

struct Arrival {
    path: Box<str>,
    id: Box<str>,
    at: i64,
    at_once: usize,
}

#[derive(Default)]
struct State {
    arrivals: RefCell<Vec<Arrival>>,
    holding: Cell<bool>,
    /// Posts that wait for an answer.
    waiting: Cell<usize>,
    pace: Cell<Duration>,
    /// When the last post at [`SERIAL`] so far is answered.
    serial_until: Cell<Option<Instant>>,
}

/// A post, for as long as it waits for an answer.
struct Waits<'a>(&'a Cell<usize>);

/// Serves until standard input is closed; says its port on standard output first.
pub(crate) fn run() -> Result<()> {
    // As a relay does, which may open a connection or more to each of many endpoints.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
        let (alone, abandoned) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            // Ends when the process that started this one has ended, in whatever way.
            let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            alone.send(read)
        });
        tokio::select! {
            accepted = accept(listener) => accepted,
            _ = abandoned => Ok(()),
        }
    })
}

async fn accept(listener: TcpListener) -> Result<()> {
    let state = Rc::new(State::default());
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many files: connections that the relay has closed are just about to be closed
            // here.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        let state = Rc::clone(&state);
        let service = service_fn(move |request| answer(request, Rc::clone(&state)));
        connections.spawn_local(async move {
            let http = hyper::server::conn::http1::Builder::new();
            // An error is a connection that was cut: a relay that was stopped.
            drop(http.serve_connection(TokioIo::new(stream), service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Rc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let text = match head.uri.path() {
        BARE => {
            drop(body.collect().await);
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        COUNT => state.arrivals.borrow().len().to_string(),
        TAKE => listed(&state.arrivals.take()),
        HOLD | RELEASE => {
            state.holding.set(head.uri.path() == HOLD);
            String::new()
        }
        path if path.starts_with(PACE) => {
            let ms = path[PACE.len()..].parse().unwrap_or_default();
            state.pace.set(Duration::from_millis(ms));
            String::new()
        }
        path => {
            let _waits = Waits::begin(&state.waiting);
            // Cut off in the middle: it did not arrive.
            if body.collect().await.is_ok() {
                let id = head.headers.get("webhook-id").and_then(|id| id.to_str().ok());
                let at = Clock.now().as_microsecond();
                let id = id.unwrap_or_default().into();
                let (path, at_once) = (path.into(), state.waiting.get());
                state.arrivals.borrow_mut().push(Arrival { path, id, at, at_once });
            }
            if path == HANG || (path == HELD && state.holding.get()) {
                std::future::pending::<()>().await;
            }
            if path.starts_with(SLOW) {
                tokio::time::sleep(SLOW_FOR).await;
            }
            if path == PACED {
                tokio::time::sleep(state.pace.get()).await;
            }
            if path == SERIAL {
                let now = Instant::now();
                let free = state.serial_until.get().map_or(now, |until| until.max(now));
                state.serial_until.set(Some(free + state.pace.get()));
                tokio::time::sleep_until(free + state.pace.get()).await;
            }
            String::new()
        }
    };
    Ok(Response::new(Full::new(Bytes::from(text))))
}

impl<'a> Waits<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn listed(arrivals: &[Arrival]) -> String {
    let mut text = String::with_capacity(arrivals.len() * 64);
    for Arrival { path, id, at, at_once } in arrivals {
        writeln!(text, "{path} {id} {at} {at_once}").expect("a String takes everything");
    }
    text
}
