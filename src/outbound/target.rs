//! The target of a request: an endpoint's URL, parsed once, with everything that a request needs of
//! it made ready. [`addresses`](super::addresses) says whether it may be sent to.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{Method, Request};
use url::{Host, Url};

/// Longer URLs are refused: receivers and proxies commonly stop at 8 kB for the whole request line.
pub const URL_MAX: usize = 4096;

/// A parsed `http` or `https` URL. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Arc<TargetParts>);

#[derive(PartialEq, Eq)]
struct TargetParts {
    https: bool,
    host: Host,
    /// The host with the trailing dot it may have had.
    lookup_name: String,
    port: u16,
    origin_form: Uri,
    absolute: Uri,
    dial: Uri,
    host_header: HeaderValue,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the URL has more than {URL_MAX} bytes")]
    TooLong,
    #[error("the URL cannot be parsed: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("the URL's scheme is `{0}`, not http or https")]
    Scheme(String),
    #[error("the URL has no host")]
    NoHost,
    #[error("the URL has a user name or password; use the endpoint's headers instead")]
    UserInfo,
    #[error("port 0 cannot be dialled")]
    PortZero,
    #[error("the URL cannot be put into a request")]
    NotAUri,
}

impl Target {
    /// Parses as browsers do (WHATWG), so that `0x7f.1` is 127.0.0.1 here as it would be anywhere
    /// else; the fragment is dropped.
    ///
    /// # Errors
    ///
    /// [`TargetError`] says what is wrong with it, without repeating the URL, which may hold a
    /// token.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > URL_MAX {
            return Err(TargetError::TooLong);
        }
        let url = Url::parse(text)?;
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(TargetError::Scheme(other.to_owned())),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::UserInfo);
        }
        let host = url.host().ok_or(TargetError::NoHost)?.to_owned();
        let port = url.port_or_known_default().ok_or(TargetError::NoHost)?;
        if port == 0 {
            return Err(TargetError::PortZero);
        }
        Self::assemble(&url, https, host, port).map(|parts| Self(Arc::new(parts)))
    }

    fn assemble(url: &Url, https: bool, host: Host, port: u16) -> Result<TargetParts, TargetError> {
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        if path.len() > URL_MAX {
            return Err(TargetError::TooLong); // percent-encoding has made it longer
        }
        let path = PathAndQuery::try_from(path).map_err(|_| TargetError::NotAUri)?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let lookup_name = host.to_string();
        let undotted = undotted(host);
        let uri = |authority: &str, path: PathAndQuery| {
            let scheme = if https { "https" } else { "http" };
            let builder = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
            builder.build().map_err(|_| TargetError::NotAUri)
        };
        Ok(TargetParts {
            https,
            port,
            lookup_name,
            absolute: uri(&authority, path.clone())?,
            dial: uri(&format!("{undotted}:{port}"), PathAndQuery::from_static("/"))?,
            origin_form: Uri::from(path),
            host: undotted,
            host_header: authority.try_into().map_err(|_| TargetError::NotAUri)?,
        })
    }

    /// A POST to this target with this body. `Host` comes first, because some receivers insist.
    #[must_use]
    pub fn post(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.0.origin_form.clone();
        request.headers_mut().insert(HOST, self.0.host_header.clone());
        request
    }

    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.https
    }

    /// As written in the URL, in lower case and Punycode, without a trailing dot.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The name for the resolver: a trailing dot, if there is one, keeps it from trying search
    /// domains.
    #[must_use]
    pub fn lookup_name(&self) -> &str {
        &self.0.lookup_name
    }

    /// As written, or the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The host if it is an address and needs no resolving.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0.host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(ip.into()),
            Host::Ipv6(ip) => Some(ip.into()),
        }
    }

    /// Path and query, as HTTP/1.1 has it in the request line.
    #[must_use]
    pub fn origin_form(&self) -> &Uri {
        &self.0.origin_form
    }

    /// The whole URL, as HTTP/2 has it in its pseudo-headers.
    #[must_use]
    pub fn absolute(&self) -> &Uri {
        &self.0.absolute
    }

    /// Scheme, host and port: what TLS takes the server's name from.
    #[must_use]
    pub fn dial(&self) -> &Uri {
        &self.0.dial
    }

    /// The host and, unless it is the scheme's own, the port.
    #[must_use]
    pub fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }

    /// Whether a connection to `other` serves this target too.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.dial == other.0.dial
    }
}

/// The name that a certificate or a rule holds has no trailing dot. (The `Host` header keeps it, as
/// with curl.)
fn undotted(host: Host) -> Host {
    match host {
        Host::Domain(name) => match name.strip_suffix('.') {
            Some(bare) if !bare.is_empty() => Host::Domain(bare.to_owned()),
            _ => Host::Domain(name),
        },
        address => address,
    }
}

/// Without path and query, which often hold a token.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.0.dial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn path_and_query_are_kept_and_the_fragment_is_dropped() {
        let target = target("https://example.com/a/%2e%2E/b%20c/;d?e=f&g=%41{}|^#h");
        assert_eq!(target.origin_form(), "/b%20c/;d?e=f&g=%41{}|^");
        assert_eq!(target.absolute(), "https://example.com/b%20c/;d?e=f&g=%41{}|^");
    }

    #[test]
    fn the_host_header_has_the_port_only_where_it_says_something() {
        for (url, header, port) in [
            ("https://example.com/", "example.com", 443),
            ("https://example.com:443/", "example.com", 443),
            ("http://example.com:443/", "example.com:443", 443),
            ("http://EXAMPLE.com", "example.com", 80),
            ("http://example.com.:81", "example.com.:81", 81),
            ("http://bücher.example/", "xn--bcher-kva.example", 80),
            ("https://[2606:4700:0::1]:8443/", "[2606:4700::1]:8443", 8443),
        ] {
            let target = target(url);
            assert_eq!((target.host_header().to_str().unwrap(), target.port()), (header, port));
        }
    }

    #[test]
    fn a_trailing_dot_stays_for_the_resolver_and_goes_elsewhere() {
        let target = target("https://example.com.:8443/");
        assert_eq!(target.lookup_name(), "example.com.");
        assert_eq!(target.host(), &Host::Domain("example.com".to_owned()));
        assert_eq!(target.dial(), "https://example.com:8443/");
    }

    #[test]
    fn one_origin_is_scheme_host_and_port() {
        let one = target("https://example.com/a");
        assert!(one.same_origin(&target("https://EXAMPLE.com:443/b")));
        for other in ["http://example.com:443/a", "https://example.com:444/a", "https://a.example"]
        {
            assert!(!one.same_origin(&target(other)), "{other}");
        }
    }

    #[test]
    fn a_url_has_a_longest_length_after_encoding_too() {
        let url = |path: &str| Target::parse(&format!("https://a.example/{path}"));
        assert!(url(&"x".repeat(4000)).is_ok());
        assert_eq!(url(&"x".repeat(5000)), Err(TargetError::TooLong));
        assert_eq!(url(&"ü".repeat(1500)), Err(TargetError::TooLong));
    }

    #[test]
    fn neither_debug_nor_an_error_shows_what_may_be_secret() {
        let shown = format!("{:?}", target("https://example.com/hook/s3cret?token=s3cret"));
        assert_eq!(shown, "Target(https://example.com:443/)");
        let error = Target::parse("https://user:s3cret@example.com/").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }

    #[test]
    fn a_post_names_its_host_before_anything_else() {
        let request = target("http://example.com:81/a?b").post(Bytes::from_static(b"{}"));
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "/a?b");
        assert_eq!(request.headers().iter().next().unwrap().1, "example.com:81");
    }
}
