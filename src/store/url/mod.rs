//! Connection strings, as libpq reads them: URLs, and `keyword=value`.
//!
//! A keyword of libpq that Posthaste does not support is refused by its name, for the operator may
//! rely on it. No error holds what may be a piece of a password: it holds no values, and names only
//! where they look like a name and do not follow the password.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding;

use super::StoreError;

/// The content of a connection string.
#[derive(Debug)]
pub(super) struct Way {
    /// Hosts, ports, user, password, database, and how sockets are kept alive.
    pub config: Config,
    pub mode: Mode,
    pub roots: Roots,
    /// Whether the server's name is sent in the clear, for proxies that route by it.
    pub sends_name: bool,
    pub connect_timeout: Option<Duration>,
}

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Roots {
    Unsaid,
    System,
    File(PathBuf),
}

enum Use {
    /// It works as in libpq.
    Served,
    /// It has no effect, and none is missed.
    Harmless,
    /// These values, and the empty one, mean what Posthaste does anyway. The text says why no
    /// others.
    OnlyAs(&'static [&'static str], &'static str),
    /// Not supported. The text says why.
    Not(&'static str),
}

use Use::{Harmless, Not, OnlyAs, Served};

const NO_CLIENT_CERTIFICATE: &str = "Posthaste cannot show a client certificate to the database";
const NO_REVOCATION: &str = "Posthaste does not check lists of revoked certificates";
const NO_KERBEROS: &str = "Posthaste cannot log in or encrypt by GSSAPI";
const NO_OAUTH: &str = "Posthaste cannot log in by OAuth";
const NO_SERVICE: &str = "Posthaste does not read service files; write what it stands for";
const NO_KEYS: &str = "Posthaste logs in with the password";
const VERSIONS: &str = "Posthaste speaks TLS 1.2 and 1.3, as the server likes";

/// All keywords of libpq, up to PostgreSQL 18.
const KEYWORDS: [(&str, Use); 52] = [
    ("application_name", Harmless),
    ("channel_binding", Served),
    ("client_encoding", OnlyAs(&["auto", "utf8", "utf-8", "unicode"], "Posthaste speaks UTF-8")),
    ("connect_timeout", Served),
    ("dbname", Served),
    ("fallback_application_name", Harmless),
    ("gssdelegation", OnlyAs(&["0"], NO_KERBEROS)),
    ("gssencmode", OnlyAs(&["disable", "prefer"], NO_KERBEROS)),
    ("gsslib", Not(NO_KERBEROS)),
    ("host", Served),
    ("hostaddr", Served),
    ("keepalives", Served),
    ("keepalives_count", Served),
    ("keepalives_idle", Served),
    ("keepalives_interval", Served),
    ("krbsrvname", Not(NO_KERBEROS)),
    ("load_balance_hosts", OnlyAs(&["disable"], "hosts are tried in the order given")),
    ("max_protocol_version", Harmless),
    ("min_protocol_version", OnlyAs(&["3.0"], "Posthaste speaks version 3.0")),
    ("oauth_client_id", Not(NO_OAUTH)),
    ("oauth_client_secret", Not(NO_OAUTH)),
    ("oauth_issuer", Not(NO_OAUTH)),
    ("oauth_scope", Not(NO_OAUTH)),
    ("options", Served),
    (
        "passfile",
        Not(
            "Posthaste does not read it; database.password_file names a file that holds the password alone",
        ),
    ),
    ("password", Served),
    ("port", Served),
    ("replication", OnlyAs(&["false", "off", "no", "0"], "Posthaste runs statements")),
    ("require_auth", Not("Posthaste logs in as the server asks it to")),
    ("requirepeer", Not("Posthaste does not ask which user serves a socket")),
    ("requiressl", Not("it is of the past; write sslmode=require")),
    ("scram_client_key", Not(NO_KEYS)),
    ("scram_server_key", Not(NO_KEYS)),
    ("service", Not(NO_SERVICE)),
    ("servicefile", Not(NO_SERVICE)),
    ("ssl_max_protocol_version", OnlyAs(&["TLSv1.3"], VERSIONS)),
    ("ssl_min_protocol_version", OnlyAs(&["TLSv1", "TLSv1.1", "TLSv1.2"], VERSIONS)),
    ("sslcert", Not(NO_CLIENT_CERTIFICATE)),
    ("sslcertmode", OnlyAs(&["disable", "allow"], NO_CLIENT_CERTIFICATE)),
    ("sslcompression", Harmless),
    ("sslcrl", Not(NO_REVOCATION)),
    ("sslcrldir", Not(NO_REVOCATION)),
    ("sslkey", Not(NO_CLIENT_CERTIFICATE)),
    ("sslkeylogfile", Not("Posthaste writes no keys to files")),
    ("sslmode", Served),
    ("sslnegotiation", OnlyAs(&["postgres"], "Posthaste asks the server for TLS before it begins")),
    ("sslpassword", Not(NO_CLIENT_CERTIFICATE)),
    ("sslrootcert", Served),
    ("sslsni", Served),
    ("target_session_attrs", OnlyAs(&["any", "read-write", "primary"], "Posthaste writes")),
    ("tcp_user_timeout", Served),
    ("user", Served),
];

/// In seconds. More is a mistake, or belongs into the setting.
const LONGEST_CONNECT_TIMEOUT: u64 = 300;
/// TCP's default before it probes an idle connection.
const SYSTEMS_IDLE: Duration = Duration::from_secs(7200);

/// # Errors
/// When it cannot be read, or asks for what is not supported. The error never holds a password.
pub(super) fn read(text: &str) -> Result<Way, StoreError> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let mut given = Keywords::default();
    match rest {
        Some(rest) => given.read_url(rest),
        None => given.read_pairs(text),
    }
    .and_then(|()| given.way())
    .map_err(StoreError::Url)
}

/// The value of each keyword; the last one counts.
#[derive(Default)]
struct Keywords {
    values: BTreeMap<&'static str, String>,
    follows_password: bool,
    /// An @ after the ? may be the one that ends the credentials.
    may_be_cut_short: bool,
}

impl Keywords {
    /// Reads the text after `postgres://`.
    fn read_url(&mut self, text: &str) -> Result<(), String> {
        // As in libpq, credentials end before the first slash, wherever else there is an @.
        let slash = text.find('/').unwrap_or(text.len());
        let (credentials, rest) = match text[..slash].find('@') {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => ("", text),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (places, name) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains('@') {
            return Err(String::from(
                "it has an @ too many: in a user, password or database an @ is written %40, and a / %2F",
            ));
        }
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        self.put("user", decoded(user)?)?;
        self.put("password", decoded(password)?)?;
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for place in places.split(',') {
            let (host, port) = host_and_port(place)?;
            hosts.push(decoded(host)?);
            ports.push(decoded(port)?);
        }
        self.put("host", hosts.join(","))?;
        self.put("port", ports.join(","))?;
        self.put("dbname", decoded(name)?)?;
        self.may_be_cut_short = query.contains('@');
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // Further = are the value's: `options=-c a=b`.
            let (keyword, value) = pair.split_once('=').ok_or(
                "a parameter after its ? has no =; in a user or password a ? is written %3F, and a & %26",
            )?;
            match (&decoded(keyword)?[..], decoded(value)?) {
                ("ssl", value) if value == "true" => self.put("sslmode", "require".to_owned())?,
                (keyword, value) => self.put(keyword, value)?,
            }
        }
        Ok(())
    }

    /// `keyword=value`, with blanks in between and around the `=`. Quotes keep blanks, and a
    /// backslash keeps what follows it.
    fn read_pairs(&mut self, text: &str) -> Result<(), String> {
        let mut rest = text.trim_start_matches(is_blank);
        while !rest.is_empty() {
            let end = rest.find(|c| c == '=' || is_blank(c)).unwrap_or(rest.len());
            let (keyword, after) = rest.split_at(end);
            let after = after.trim_start_matches(is_blank).strip_prefix('=').ok_or(
                "a word of it has no =; it is a URL that begins with postgres://, or keyword=value \
                 with blanks in between, where a value with blanks is in single quotes",
            )?;
            let after = after.trim_start_matches(is_blank);
            let (value, after) = if let Some(quoted) = after.strip_prefix('\'') {
                let (value, end) = until(quoted, |c| c == '\'');
                let end = end.ok_or("a single quote in it has no other")?;
                (value, &quoted[end + 1..])
            } else {
                let (value, end) = until(after, is_blank);
                (value, &after[end.unwrap_or(after.len())..])
            };
            self.put(keyword, value)?;
            rest = after.trim_start_matches(is_blank);
        }
        Ok(())
    }

    fn put(&mut self, keyword: &str, value: String) -> Result<(), String> {
        let known = KEYWORDS.iter().find(|(name, _)| *name == keyword);
        let (name, of_use) = known.ok_or_else(|| self.unknown(keyword))?;
        match of_use {
            _ if value.is_empty() => {}
            Not(why) => return Err(format!("{name} is not supported: {why}")),
            OnlyAs(values, why) if !values.iter().any(|one| one.eq_ignore_ascii_case(&value)) => {
                let values = values.join(" or ");
                return Err(format!("{name} is supported as {values} alone: {why}"));
            }
            _ => {}
        }
        self.follows_password = *name == "password";
        self.values.insert(name, value);
        Ok(())
    }

    fn unknown(&self, keyword: &str) -> String {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_secret = self.follows_password || self.may_be_cut_short;
        if is_secret || keyword.len() > 40 || !keyword.chars().all(is_name) {
            return "a word before an = is none that PostgreSQL knows; a password with blanks is in single \
                    quotes, and in a URL a & is written %26"
                .to_owned();
        }
        let far = |name: &str| strsim::osa_distance(&keyword.to_lowercase(), name);
        let nearest = KEYWORDS.iter().map(|(name, _)| (far(name), *name)).min();
        match nearest.filter(|(far, name)| *far <= 3 && far * 2 <= name.len()) {
            Some((_, name)) => {
                format!("PostgreSQL knows no {keyword} in a connection string; is it {name}?")
            }
            None => format!("PostgreSQL knows no {keyword} in a connection string"),
        }
    }

    fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn list(&self, keyword: &str) -> Vec<&str> {
        self.get(keyword).map(|value| value.split(',').collect()).unwrap_or_default()
    }

    /// A number below 0 is 0, as in libpq.
    fn number(&self, keyword: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        let number: i64 =
            value.trim().parse().map_err(|_| format!("{keyword} is to be a whole number"))?;
        Ok(Some(number.try_into().unwrap_or_default()))
    }

    fn way(&self) -> Result<Way, String> {
        let mut config = Config::new();
        self.places(&mut config)?;
        self.get("user").map(|user| config.user(user));
        self.get("password").map(|password| config.password(password));
        self.get("dbname").map(|name| config.dbname(name));
        self.get("options").map(|options| config.options(options));
        config.channel_binding(match self.get("channel_binding") {
            Some("disable") => ChannelBinding::Disable,
            Some("prefer") | None => ChannelBinding::Prefer,
            Some("require") => ChannelBinding::Require,
            Some(_) => return Err("channel_binding is disable, prefer or require".to_owned()),
        });
        self.sockets(&mut config)?;
        let connect_timeout = match self.number("connect_timeout")? {
            Some(seconds @ 1..=LONGEST_CONNECT_TIMEOUT) => Some(Duration::from_secs(seconds)),
            Some(_) => {
                return Err(format!(
                    "connect_timeout is 1 to {LONGEST_CONNECT_TIMEOUT} seconds, as a host that hangs is to be \
                     passed over; without it, database.connect_timeout holds"
                ));
            }
            None => None,
        };
        let roots = match self.get("sslrootcert") {
            Some("system") => Roots::System,
            Some(path) => Roots::File(path.into()),
            None => Roots::Unsaid,
        };
        let mode = match self.get("sslmode") {
            Some("disable") => Mode::Disable,
            Some("allow" | "prefer") => Mode::Prefer,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            None if roots == Roots::System => Mode::VerifyFull,
            None => Mode::Prefer,
            Some(_) => {
                return Err("sslmode is disable, allow, prefer, require, verify-ca or verify-full"
                    .to_owned());
            }
        };
        if roots == Roots::System && mode != Mode::VerifyFull {
            return Err("sslrootcert=system goes with sslmode=verify-full alone".to_owned());
        }
        let sends_name = match self.get("sslsni") {
            Some("0") => false,
            Some("1") | None => true,
            Some(_) => return Err("sslsni is 0 or 1".to_owned()),
        };
        Ok(Way { config, mode, roots, sends_name, connect_timeout })
    }

    fn places(&self, config: &mut Config) -> Result<(), String> {
        let (hosts, addresses) = (self.list("host"), self.list("hostaddr"));
        let count = hosts.len().max(addresses.len());
        if count == 0 {
            return Err(
                "it names no host; that of a socket is its directory: host=/var/run/postgresql"
                    .to_owned(),
            );
        }
        if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
            return Err("host and hostaddr do not name equally many".to_owned());
        }
        for host in &hosts {
            if host.is_empty() {
                return Err("one of its hosts has no name".to_owned());
            }
            if host.starts_with('@') {
                return Err("host is not supported with an @ in front: sockets are found by their directory"
                    .to_owned());
            }
            config.host(*host);
        }
        for address in addresses {
            let address: IpAddr =
                address.parse().map_err(|_| "hostaddr is to be an IP address".to_owned())?;
            config.hostaddr(address);
            if hosts.is_empty() {
                config.host(address.to_string());
            }
        }
        let ports = self.list("port");
        if ports.len() > 1 && ports.len() != count {
            return Err("port does not name one port, nor as many as there are hosts".to_owned());
        }
        for port in ports {
            let port: u16 = match port {
                "" => 5432,
                // It is not repeated: in a URL with a / in the password, this is a piece of it.
                port => port.trim().parse().ok().filter(|port| *port > 0).ok_or(
                    "a port is to be a number of 1 to 65535; in a user or password a / is written %2F",
                )?,
            };
            config.port(port);
        }
        Ok(())
    }

    /// By default a lost peer is noticed in 25 seconds. 0 stands for the system's own setting.
    fn sockets(&self, config: &mut Config) -> Result<(), String> {
        config.keepalives(self.number("keepalives")? != Some(0));
        config.keepalives_idle(match self.number("keepalives_idle")?.unwrap_or(10) {
            0 => SYSTEMS_IDLE,
            seconds => Duration::from_secs(seconds),
        });
        let interval = self.number("keepalives_interval")?.unwrap_or(5);
        if interval > 0 {
            config.keepalives_interval(Duration::from_secs(interval));
        }
        let count = self.number("keepalives_count")?.unwrap_or(3);
        if count > 0 {
            let count = u32::try_from(count);
            config.keepalives_retries(count.map_err(|_| "keepalives_count is too large")?);
        }
        let milliseconds = self.number("tcp_user_timeout")?.unwrap_or(20_000);
        if milliseconds > 0 {
            config.tcp_user_timeout(Duration::from_millis(milliseconds));
        }
        Ok(())
    }
}

/// One of the hosts of a URL: `name:port`, `[::1]:port`.
fn host_and_port(place: &str) -> Result<(&str, &str), &'static str> {
    let Some(inner) = place.strip_prefix('[') else {
        return Ok(place.split_once(':').unwrap_or((place, "")));
    };
    let (host, after) = inner.split_once(']').ok_or("a [ in it has no ]")?;
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Ok((host, "")),
        None => Err("a ] in it is followed by neither a port nor a /"),
    }
}

/// Decodes `%2F` and its like.
fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let byte =
            digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(byte.filter(|byte| *byte != 0).ok_or(
            "a % in it is not followed by two hexadecimal digits; a % itself is written %25",
        )?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what it has behind % is not UTF-8")
}

/// Reads up to the end, if there is one; a character behind a backslash is taken as it is.
fn until(text: &str, is_end: impl Fn(char) -> bool) -> (String, Option<usize>) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, kept)| kept)),
            end if is_end(end) => return (value, Some(at)),
            other => value.push(other),
        }
    }
    (value, None)
}

/// White space as C defines it, and libpq with it.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests;
