//! Which page answers a request: by its path, then by its method. A page may wait and own what it
//! shows.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::problem::problem;

/// An answer that may take a while.
type Answering = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// The pages of a listener. `B` is the body of a request.
pub struct Router<B = Incoming> {
    pages: Vec<RoutedPage<B>>,
}

struct RoutedPage<B> {
    method: Method,
    path: &'static str,
    answer: Box<dyn Fn(Request<B>) -> Answering + Send + Sync>,
}

impl<B> fmt::Debug for Router<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pages.iter().map(|page| (&page.method, page.path))).finish()
    }
}

impl<B> Default for Router<B> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<B> Router<B> {
    /// With one page more. A page for GET answers HEAD too.
    #[must_use]
    pub fn with<F>(
        mut self,
        method: Method,
        path: &'static str,
        answer: impl Fn(Request<B>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let answer = Box::new(move |request| Box::pin(answer(request)) as Answering);
        self.pages.push(RoutedPage { method, path, answer });
        self
    }

    /// The page's answer; a problem where there is no such page.
    pub async fn answer(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let mut methods = Vec::new();
        for page in self.pages.iter().filter(|page| page.path == path) {
            let is_head = request.method() == Method::HEAD && page.method == Method::GET;
            if *request.method() == page.method || is_head {
                return (page.answer)(request).await;
            }
            methods.push(page.method.as_str());
        }
        if methods.is_empty() { self.not_found() } else { not_allowed(&methods) }
    }

    fn not_found(&self) -> Response<Full<Bytes>> {
        let mut paths: Vec<_> = self.pages.iter().map(|page| page.path).collect();
        paths.dedup();
        let detail = match &paths[..] {
            [] => "there is nothing here".to_owned(),
            [path] => format!("there is {path}"),
            [first @ .., last] => format!("there are {} and {last}", first.join(", ")),
        };
        problem(StatusCode::NOT_FOUND, &detail)
    }
}

fn not_allowed(methods: &[&str]) -> Response<Full<Bytes>> {
    let detail = format!("write {}", methods.join(" or "));
    let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, &detail);
    let allowed = methods.join(", ").replace("GET", "GET, HEAD");
    let allowed = HeaderValue::from_str(&allowed).expect("a method is made of token characters");
    refused.headers_mut().insert(ALLOW, allowed);
    refused
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;

    fn router() -> Router<String> {
        let count = Arc::new(AtomicU64::new(0));
        let added = Arc::clone(&count);
        let page = |text: String| Response::new(Full::new(text.into()));
        Router::default()
            .with(Method::GET, "/count", move |_| {
                let count = count.load(Ordering::Relaxed);
                async move { page(count.to_string()) }
            })
            .with(Method::POST, "/count", move |request: Request<String>| {
                let added = Arc::clone(&added);
                async move {
                    tokio::task::yield_now().await;
                    let more: u64 = request.into_body().parse().unwrap();
                    page((added.fetch_add(more, Ordering::Relaxed) + more).to_string())
                }
            })
    }

    async fn ask(router: &Router<String>, method: Method, path: &str) -> Response<Full<Bytes>> {
        let request = Request::builder().method(method).uri(path).body("2".to_owned()).unwrap();
        router.answer(request).await
    }

    #[tokio::test]
    async fn a_page_may_wait_and_keep_what_it_shows() {
        let router = router();
        for (method, expected) in [(Method::POST, "2"), (Method::POST, "4"), (Method::GET, "4")] {
            let answer = ask(&router, method, "/count?x=1").await;
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
        }
    }

    #[tokio::test]
    async fn a_request_for_no_page_hears_which_there_are() {
        let router = router();
        assert_eq!(ask(&router, Method::HEAD, "/count").await.status(), 200);
        let refused = ask(&router, Method::DELETE, "/count").await;
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()[ALLOW], "GET, HEAD, POST");
        let missing = ask(&router, Method::GET, "/").await;
        assert_eq!(missing.status(), 404);
        let body = missing.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("there is /count\""));
    }
}
