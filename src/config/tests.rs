use std::fs;

use super::*;
use crate::model::secret::Secret;

const URL: &str = "postgres://app:hunter2@db.internal/shop";

/// The settings that follow from a file's text, variables and flags.
#[derive(Default)]
struct Given<'a> {
    file: Option<&'a str>,
    environment: &'a [(&'a str, &'a str)],
    flags: &'a [(&'a str, &'a str)],
}

impl Given<'_> {
    fn load(&self) -> Result<Config, ConfigError> {
        self.load_in(tempfile::tempdir().unwrap().path())
    }

    /// The error's text, as it is when the file stands in the working directory.
    fn error(&self) -> String {
        let directory = tempfile::tempdir().unwrap();
        let error = self.load_in(directory.path()).unwrap_err().to_string();
        error.replace(&format!("{}/", directory.path().display()), "")
    }

    fn load_in(&self, directory: &Path) -> Result<Config, ConfigError> {
        if let Some(text) = self.file {
            fs::write(directory.join("posthaste.toml"), text).unwrap();
        }
        load(&Sources {
            config_file: None,
            directory: Some(directory.to_owned()),
            environment: owned(self.environment),
            flags: owned(self.flags),
        })
    }
}

fn owned<T: From<String>>(pairs: &[(&str, &str)]) -> Vec<(T, T)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned().into(), (*v).to_owned().into())).collect()
}

fn environment_error(name: &str, value: &str) -> String {
    Given { environment: &[("DATABASE_URL", URL), (name, value)], ..Given::default() }.error()
}

fn with_file(text: &str) -> Given<'_> {
    Given { file: Some(text), environment: &[("DATABASE_URL", URL)], ..Given::default() }
}

#[test]
fn the_defaults_need_nothing_but_a_database() {
    let config =
        Given { environment: &[("DATABASE_URL", URL)], ..Given::default() }.load().unwrap();
    assert_eq!(config.database.url.expose(), URL);
    assert_eq!(config.http.listen, Some("127.0.0.1:7878".parse().unwrap()));
    assert_eq!(config.relay.batch, 500);
    assert_eq!(config.relay.wake, WakeMode::Listen);
    assert!(config.relay.worker_threads() >= 1);
    assert_eq!(config.delivery.user_agent, concat!("posthaste/", env!("CARGO_PKG_VERSION")));
    assert_eq!(config.retry.max_age, None);
    assert_eq!(config.health.disable_after, Some(std::time::Duration::from_secs(5 * 86400)));
    assert!(!config.relay.name.is_empty());
}

#[test]
fn without_a_database_the_error_says_how_to_name_one() {
    insta::assert_snapshot!(Given::default().error(), @"settings: database.url: not set; set DATABASE_URL, or POSTHASTE_DATABASE__URL, or url under [database] in posthaste.toml, or name a file that holds it in database.url_file");
}

#[test]
fn every_default_is_read_and_none_is_missing() {
    let known = KnownKeys::new(DEFAULTS);
    let example = ["example".to_owned()];
    let figment = |known: &KnownKeys| {
        Figment::new().merge(Layer::defaults(known).with_sources(&example, known))
    };
    for key in known.keys() {
        // a key that is not read, or that the types do without, could be taken away unnoticed
        let (section, name) = key.rsplit_once('.').unwrap();
        let mut here = "";
        let without: String = DEFAULTS
            .lines()
            .filter(|line| {
                if line.starts_with('[') {
                    here = line.trim_matches(['[', ']']);
                }
                !(here == section && line.starts_with(&format!("{name} =")))
            })
            .fold(String::new(), |text, line| text + line + "\n");
        assert!(without.len() < DEFAULTS.len(), "{key} has a line of its own");
        let figment = figment(&KnownKeys::new(&without));
        let mut sections = Sections::new(figment, &known, &|_| None);
        assert!(sections.read_all(&example).is_none(), "{key} is required");
        let problems = sections.problems;
        assert!(problems[0].key.as_deref() == Some(&*key), "{key}: {problems:?}");
    }
    let mut sections = Sections::new(figment(&known), &known, &|_| None);
    assert!(sections.read_all(&example).is_some(), "{:?}", sections.problems);
}

#[test]
fn every_default_has_its_reason_above_it() {
    let mut above = "";
    let mut settings = 0;
    for line in DEFAULTS.lines() {
        if line.starts_with(|c: char| c.is_ascii_lowercase()) {
            settings += 1;
            assert!(above.starts_with("# "), "no reason above: {line}");
        }
        above = line;
    }
    assert_eq!(settings, KnownKeys::new(DEFAULTS).keys().len());
}

#[test]
fn every_setting_can_come_from_the_environment() {
    for key in KnownKeys::new(DEFAULTS).keys() {
        let name = format!("POSTHASTE_{}", key.replace('.', "__").to_uppercase());
        // no setting takes this, so each must object, and say where it stands
        let source = ("POSTHASTE_INGEST__SOURCES__EXAMPLE__VERIFY", "none");
        let given = (&*name, "\u{1}no\u{7f} such value\n");
        let secret = ("POSTHASTE_INGEST__SOURCES__EXAMPLE__SECRET", "hunter2");
        let environment = match key.rsplit('.').next().unwrap() {
            "secret" | "old_secret" | "secret_file" => vec![("DATABASE_URL", URL), given],
            _ if key.starts_with(SOURCES) => vec![("DATABASE_URL", URL), secret, given],
            _ => vec![("DATABASE_URL", URL), source, given],
        };
        let error = Given { environment: &environment, ..Given::default() }.error();
        let texts = [
            "name",
            "level",
            "url_file",
            "password_file",
            "ca_file",
            "user_agent",
            "source",
            "url",
            "certificate_file",
            "key_file",
            "spool",
            "secret",
            "secret_file",
        ];
        let is_text = texts.iter().any(|text| key.ends_with(text));
        assert!(error.starts_with(&format!("settings: {name}: {key}: ")), "{error}");
        assert!(is_text || error.contains("write"), "{error}");
    }
}

#[test]
fn later_sources_go_over_earlier_ones() {
    let file = "[relay]\nbatch = 1\npoll_interval = \"2s\"\nheartbeat = \"1s\"\n[database]\nurl = \"postgres://file\"";
    let given = Given {
        file: Some(file),
        environment: &[
            ("DATABASE_URL", "postgres://plain"),
            ("POSTHASTE_RELAY__BATCH", "2"),
            ("POSTHASTE_RELAY__POLL_INTERVAL", "3s"),
        ],
        flags: &[("relay.batch", "3")],
    };
    let config = given.load().unwrap();
    assert_eq!(config.database.url.expose(), "postgres://plain");
    assert_eq!(config.relay.batch, 3);
    assert_eq!(config.relay.poll_interval.as_secs(), 3);
    assert_eq!(config.relay.heartbeat.as_secs(), 1);
    let ours =
        [("DATABASE_URL", "postgres://plain"), ("POSTHASTE_DATABASE__URL", "postgres://ours")];
    let config = Given { environment: &ours, ..Given::default() }.load().unwrap();
    assert_eq!(config.database.url.expose(), "postgres://ours");
}

#[test]
fn text_becomes_what_the_setting_is() {
    let config = Given {
        environment: &[
            ("DATABASE_URL", URL),
            ("POSTHASTE_RELAY__NAME", "42"),
            ("POSTHASTE_ADDRESSES__ALLOW", "10.0.0.0/8, hooks.internal"),
            ("POSTHASTE_ADDRESSES__ALLOW_HTTP", "[\"127.0.0.1\"]"),
            ("POSTHASTE_HTTP__LISTEN", "off"),
            ("POSTHASTE_HEALTH__DISABLE_AFTER", "off"),
            ("POSTHASTE_DELIVERY__PROXY", "http://p:3128"),
            ("POSTHASTE_LOG__FORMAT", "json"),
        ],
        ..Given::default()
    }
    .load()
    .unwrap();
    assert_eq!(config.relay.name, "42");
    assert_eq!(config.addresses.allow.len(), 2);
    assert_eq!(config.addresses.allow[1], "hooks.internal".parse().unwrap());
    assert_eq!(config.addresses.allow_http, ["127.0.0.1".parse().unwrap()]);
    assert_eq!(config.http.listen, None);
    assert_eq!(config.health.disable_after, None);
    assert_eq!(config.delivery.proxy, Some("http://p:3128".parse().unwrap()));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn an_unknown_key_is_an_error_that_names_its_line_and_the_nearest_key() {
    let cases = [
        (
            "[relay]\n\nbacth = 1",
            "settings: posthaste.toml:3: relay.bacth: no such setting; did you mean relay.batch?",
        ),
        (
            "[relay]\ntimeout = \"1s\"",
            "settings: posthaste.toml:2: relay.timeout: no such setting; did you mean delivery.timeout?",
        ),
        (
            "relay.bacth = 1",
            "settings: posthaste.toml:1: relay.bacth: no such setting; did you mean relay.batch?",
        ),
        (
            "relay = { batch = 1, bacth = 2 }",
            "settings: posthaste.toml:1: relay.bacth: no such setting; did you mean relay.batch?",
        ),
        ("[relay]\nquux = 1", "settings: posthaste.toml:2: relay.quux: no such setting"),
        (
            "# first\nbatch = 1",
            "settings: posthaste.toml:2: batch: no such setting; did you mean relay.batch or ingest.batch?",
        ),
        (
            "[relays]\nexponent = 1",
            "settings: posthaste.toml:1: relays: no such section; did you mean [relay]?",
        ),
        (
            "max_in_flight = 5",
            "settings: posthaste.toml:1: max_in_flight: no such setting; did you mean relay.max_in_flight or ingest.max_in_flight?",
        ),
        (
            "[delivery]\nca_fiel = \"x\"",
            "settings: posthaste.toml:2: delivery.ca_fiel: no such setting; did you mean delivery.ca_file?",
        ),
        (
            "timeuot = \"5s\"",
            "settings: posthaste.toml:1: timeuot: no such setting; did you mean delivery.timeout?",
        ),
        (
            "relay = 5",
            "settings: posthaste.toml:1: relay: is a section; write [relay] and its settings below it",
        ),
    ];
    for (file, error) in cases {
        assert_eq!(with_file(file).error(), error);
    }
}

#[test]
fn a_bad_value_is_an_error_that_says_where_it_stands_and_what_would_be_right() {
    let cases = [
        (
            "[relay]\nbatch = \"many\"",
            r#"settings: posthaste.toml:2: relay.batch: "many" does not fit; write a whole number, 0 or more"#,
        ),
        (
            "[relay]\nbatch = -1",
            "settings: posthaste.toml:2: relay.batch: -1 does not fit; write a whole number, 0 or more",
        ),
        (
            "[relay]\nbatch = 0",
            "settings: posthaste.toml:2: relay.batch: 0 is out of bounds; write 1 to 10000",
        ),
        (
            "[relay]\nheartbeat = \"50ms\"",
            r#"settings: posthaste.toml:2: relay.heartbeat: "50ms" is out of bounds; write "100ms" to "1m""#,
        ),
        (
            "[relay]\nheartbeat = \"9s\"",
            "settings: posthaste.toml:2: relay.lease: must be at least three times relay.heartbeat",
        ),
        (
            "[relay]\nwake = \"sleep\"",
            r#"settings: posthaste.toml:2: relay.wake: "sleep" does not fit; write "listen" or "poll""#,
        ),
        (
            "[database]\npooler = \"session\"",
            r#"settings: posthaste.toml:2: database.pooler: "session" does not fit; write "none" or "transaction""#,
        ),
        (
            "[database]\ndirect_url = \"db.internal\"",
            "settings: posthaste.toml:2: database.direct_url: not a Postgres URL; write postgres://user:password@host:port/database",
        ),
        (
            "[database]\npooler = \"transaction\"",
            r#"settings: posthaste.toml:2: database.pooler: with "transaction" the bell needs another way to the database: give database.direct_url, or do without the bell by relay.wake = "poll""#,
        ),
        (
            "[delivery]\nresponse_body_limit = \"2MiB\"",
            "settings: posthaste.toml:2: delivery.response_body_limit: 2097152 bytes are out of bounds; write 0B to 1MiB",
        ),
        (
            "[delivery]\nkeep_responses = \"some\"",
            r#"settings: posthaste.toml:2: delivery.keep_responses: "some" does not fit; write "failures" or "all" or "none""#,
        ),
        (
            "[delivery]\nca_file = \"/no/such.pem\"",
            "settings: posthaste.toml:2: delivery.ca_file: there is no file /no/such.pem",
        ),
        (
            "[retry]\njitter_max = \"1s\"",
            "settings: posthaste.toml:2: retry.jitter_max: must be at least retry.jitter_min",
        ),
        (
            "[addresses]\nallow = [\"10.0.0.0/8\", \"10.0.0.0/33\"]",
            "settings: posthaste.toml:2: addresses.allow: `10.0.0.0/33` is not a CIDR, such as 10.0.0.0/8 or fd00::/8",
        ),
        (
            "[http]\nlisten = \"7878\"",
            r#"settings: posthaste.toml:2: http.listen: "7878" is not an address and port; write "127.0.0.1:7878", "0.0.0.0:7878", "[::]:7878" or "off""#,
        ),
        ("[log]\nlevel = \"info,=,\"", ""),
        (
            "[upkeep]\noutbox_retention = \"1h\"",
            r#"settings: posthaste.toml:2: upkeep.outbox_retention: "1h" is out of bounds; write "1d" to "3653d""#,
        ),
    ];
    for (file, error) in cases {
        let found = with_file(file).error();
        if error.is_empty() {
            assert!(found.contains("posthaste.toml:2: log.level: "), "{found}");
        } else {
            assert_eq!(found, error);
        }
    }
}

#[test]
fn a_value_without_its_unit_or_quotes_is_told_all_that_is_wrong_with_it_at_once() {
    let cases = [
        (
            "[relay]\nheartbeat = 2",
            r#"settings: posthaste.toml:2: relay.heartbeat: 2 has no unit; write 2s, 2m, 2h or 2d (in a settings file in quotes: "2s")"#,
        ),
        (
            "[relay]\nheartbeat = \"2\"",
            r#"settings: posthaste.toml:2: relay.heartbeat: 2 has no unit; write 2s, 2m, 2h or 2d (in a settings file in quotes: "2s")"#,
        ),
        (
            "[relay]\nheartbeat = \"soon\"",
            r#"settings: posthaste.toml:2: relay.heartbeat: "soon" is not a duration; write a number with a unit, such as "500ms", "2s" or "30d""#,
        ),
        (
            "[ingest]\nmax_head = 16",
            r#"settings: posthaste.toml:2: ingest.max_head: 16 has no unit; write 16B, 16KiB or 16MiB (in a settings file in quotes: "16KiB")"#,
        ),
        (
            "[health]\ndisable_after = false",
            r#"settings: posthaste.toml:2: health.disable_after: "false" is not a duration; write a number with a unit, such as "500ms", "2s" or "30d", or "off""#,
        ),
        (
            "[relay]\nbatch = \"500\"",
            r#"settings: posthaste.toml:2: relay.batch: "500" does not fit; write 500, without quotes"#,
        ),
        (
            "[http]\nlisten = 7878",
            r#"settings: posthaste.toml:2: http.listen: "7878" is not an address and port; write "127.0.0.1:7878", "0.0.0.0:7878", "[::]:7878" or "off""#,
        ),
    ];
    for (file, error) in cases {
        assert_eq!(with_file(file).error(), error);
    }
}

#[test]
fn a_variable_is_named_in_its_error() {
    assert_eq!(
        environment_error("POSTHASTE_RELAY__BATCH", "many"),
        r#"settings: POSTHASTE_RELAY__BATCH: relay.batch: "many" does not fit; write a whole number, 0 or more"#
    );
    assert_eq!(
        environment_error("POSTHASTE_DATABASE_URL", URL),
        "settings: POSTHASTE_DATABASE_URL: database_url: no such setting; did you mean database.url?"
    );
    for (name, given) in [
        ("POSTHASTE_LOG__LEVEL", environment_error("POSTHASTE_LOG__LEVEL", "warning")),
        (
            "--set log.level",
            Given {
                environment: &[("DATABASE_URL", URL)],
                flags: &[("log.level", "warning")],
                file: None,
            }
            .error(),
        ),
    ] {
        let wrong = r#"log.level: "warning" is not a level; did you mean "warn"?"#;
        assert!(given.starts_with(&format!("settings: {name}: {wrong}")), "{given}");
    }
    let flags =
        Given { environment: &[("DATABASE_URL", URL)], flags: &[("relay.bacth", "1")], file: None };
    assert_eq!(
        flags.error(),
        "settings: --set relay.bacth: relay.bacth: no such setting; did you mean relay.batch?"
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = with_file(
        "[relay]\nbacth = 1\nbatch = \"x\"\nheartbeat = 30\nmax_in_flight = 0\nlease = \"2s\"\n\
         [retry]\ncap = \"400d\"\n[addresses]\nallow = [\"a b\", \"10.0.0.0/8\", \"10.0.0.0/33\"]\n\
         [log]\nformat = \"xml\"\n[database]\nca_file = \"/no/such.pem\"",
    )
    .error();
    insta::assert_snapshot!(error, @r#"
    settings: 9 things are wrong
      posthaste.toml:2: relay.bacth: no such setting; did you mean relay.batch?
      posthaste.toml:3: relay.batch: "x" does not fit; write a whole number, 0 or more
      posthaste.toml:4: relay.heartbeat: 30 has no unit; write 30s, 30m, 30h or 30d (in a settings file in quotes: "30s")
      posthaste.toml:5: relay.max_in_flight: 0 is out of bounds; write 1 to 65536
      posthaste.toml:8: retry.cap: "400d" is out of bounds; write "1s" to "365d"
      posthaste.toml:10: addresses.allow: `a b` is not a host name: write a CIDR, an address or a host, without scheme or port
      posthaste.toml:10: addresses.allow: `10.0.0.0/33` is not a CIDR, such as 10.0.0.0/8 or fd00::/8
      posthaste.toml:12: log.format: "xml" does not fit; write "auto" or "json" or "text"
      posthaste.toml:14: database.ca_file: there is no file /no/such.pem
    "#);
    // A file that cannot be read may have had what seems to be missing.
    let error = Given { file: Some("x ="), ..Given::default() }.error();
    assert!(error.starts_with("settings: posthaste.toml:1: not TOML"), "{error}");
}

#[test]
fn a_file_that_is_not_toml_is_named_with_its_line_and_never_quoted() {
    let error = with_file("[database]\nurl = \"postgres://app:hunter2@db\nx = 1").error();
    assert!(error.starts_with("settings: posthaste.toml:2: not TOML: "), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn no_error_and_no_debug_output_holds_a_secret() {
    for url in ["hunter2", "mysql://a:hunter2@db"] {
        let error = Given { environment: &[("DATABASE_URL", url)], ..Given::default() }.error();
        assert!(
            error.starts_with("settings: DATABASE_URL: database.url: not a Postgres URL"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = environment_error("POSTHASTE_DELIVERY__PROXY", "socks5://me:hunter2@p");
    assert!(!error.contains("hunter2"), "{error}");
    let config =
        Given { environment: &[("DATABASE_URL", URL)], ..Given::default() }.load().unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_secret_may_come_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (url, password) = (path("url", &format!("{URL}\n")), path("password", " hunter 3 \r\n"));
    let environment = [
        ("DATABASE_URL", "postgres://plain"),
        ("POSTHASTE_DATABASE__URL_FILE", &*url),
        ("POSTHASTE_DATABASE__PASSWORD_FILE", &*password),
    ];
    let config = Given { environment: &environment, ..Given::default() }.load().unwrap();
    assert_eq!(config.database.url.expose(), URL, "the file is given later in the order");
    assert_eq!(config.database.password.unwrap().expose(), " hunter 3 ");

    let file = format!("[database]\nurl_file = {url:?}");
    let plain = Given {
        file: Some(&file),
        environment: &[("DATABASE_URL", "postgres://plain")],
        ..Given::default()
    };
    assert_eq!(plain.load().unwrap().database.url.expose(), "postgres://plain");

    let both = Given { file: Some(&format!("{file}\nurl = \"postgres://x\"")), ..Given::default() };
    assert_eq!(
        both.error(),
        "settings: posthaste.toml:2: database.url_file: database.url is given beside it; give one of the two"
    );

    for (name, what) in [
        (path("empty", "\n"), "the file is empty"),
        ("/no/such".to_owned(), "cannot open /no/such"),
    ] {
        let error = environment_error("POSTHASTE_DATABASE__URL_FILE", &name);
        assert!(
            error.starts_with("settings: POSTHASTE_DATABASE__URL_FILE: database.url_file: "),
            "{error}"
        );
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn behind_a_pooler_there_is_a_direct_way_or_no_bell() {
    let pooled = "[database]\npooler = \"transaction\"\n";
    let polling = with_file(&format!("{pooled}[relay]\nwake = \"poll\"")).load().unwrap();
    assert_eq!(polling.database.pooler, Pooler::Transaction);
    assert_eq!(polling.database.direct_url, None);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("direct");
    fs::write(&path, "postgres://app:hunter2@past.the.pooler\n").unwrap();
    let file = format!("{pooled}direct_url_file = {:?}", path.to_str().unwrap());
    let listening = with_file(&file).load().unwrap();
    let direct = listening.database.direct_url.as_ref().map(Secret::expose);
    assert_eq!(direct, Some("postgres://app:hunter2@past.the.pooler"));
    assert_eq!(listening.database.url.expose(), URL);
    assert!(!format!("{listening:?}").contains("hunter2"));

    let both = with_file(&format!("{file}\ndirect_url = \"postgres://x\"")).error();
    assert_eq!(
        both,
        "settings: posthaste.toml:3: database.direct_url_file: database.direct_url is given beside it; give one of the two"
    );
}

#[test]
fn a_source_has_what_it_says_and_the_defaults_for_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secrets");
    fs::write(&path, "new one\nold one\r\n\n").unwrap();
    let file = format!(
        "[ingest]\nlisten = \"0.0.0.0:7879\"\n[ingest.sources.build-1]\nsecret_file = {:?}\n\
         event_type = \"header:X-Kind\"\nclients = [\"10.0.0.0/8\", \"::1\"]\nheaders = [\"X-*\"]\n\
         [ingest.sources.shop]\nmax_body = \"2MiB\"\ntenant = \"acme\"",
        path.to_str().unwrap()
    );
    let environment = [
        ("DATABASE_URL", URL),
        ("POSTHASTE_INGEST__SOURCES__SHOP__SECRET", "hunter2"),
        ("POSTHASTE_INGEST__SOURCES__SHOP__OLD_SECRET", "hunter1"),
        ("POSTHASTE_INGEST__SOURCES__HOOK__VERIFY", "none"),
    ];
    let given = Given { file: Some(&file), environment: &environment, ..Given::default() };
    let config = given.load().unwrap();
    let sources = &config.ingest.sources;
    assert_eq!(sources.keys().collect::<Vec<_>>(), ["build-1", "hook", "shop"]);
    let (build, shop) = (&sources["build-1"], &sources["shop"]);
    assert_eq!(build.exposed_secrets(), ["new one", "old one"]);
    assert_eq!(shop.exposed_secrets(), ["hunter2", "hunter1"]);
    assert_eq!((build.max_body, shop.max_body), (1 << 20, 2 << 20));
    assert_eq!(build.clients, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(build.headers, ["x-*"]);
    assert_eq!(shop.tenant.as_deref(), Some("acme"));
    assert_eq!(shop.event_type, EventType::Conventional);
    assert!(!format!("{config:?}").contains("hunter") && !format!("{config:?}").contains("one\""));
}

#[test]
fn what_is_wrong_with_a_source_is_said_where_it_stands() {
    let of_source = |line: &str| {
        let file = format!("[ingest.sources.shop]\nsecret = \"hunter2\"\n{line}");
        let error = with_file(&file).error();
        assert!(!error.contains("hunter2"), "{error}");
        error.replace("settings: posthaste.toml:3: ingest.sources.shop.", "")
    };
    for (line, error) in [
        (
            "max_bdy = \"1B\"",
            "max_bdy: no such setting; did you mean ingest.sources.shop.max_body?",
        ),
        (
            "verify = \"bitbucket\"",
            r#"verify: "bitbucket" does not fit; write "gitlab" or "github" or "stripe" or "standard" or "slack" or "shopify" or "token" or "none""#,
        ),
        (
            "verify = \"none\"",
            "verify: with a secret, requests should be verified; write how the sender proves that it knows it",
        ),
        ("max_body = \"1GiB\"", ""),
        ("max_body = \"65MiB\"", "max_body: must be at most ingest.max_in_flight_bytes"),
        ("event_type = \"a..b\"", ""),
        ("event_type = \"posthaste.test\"", ""),
        ("ordering_key = \"project\"", ""),
        (
            "headers = [\"a b\"]",
            r#"headers: "a b" is not a header's name; write "x-acme-kind", "x-acme-*" or "*""#,
        ),
        (
            "content_types = [\"xml\"]",
            r#"content_types: "xml" does not fit; write "json" or "form""#,
        ),
        (
            "content_types = []",
            r#"content_types: nothing could be sent; write ["json"], ["form"] or both"#,
        ),
        (
            "clients = [\"10.0.0.0/33\"]",
            r#"clients: "10.0.0.0/33" is not a network; write "34.74.90.64/28" or "2001:db8::1""#,
        ),
        (
            "secret_file = \"/no/such\"",
            "secret_file: cannot open /no/such: No such file or directory (os error 2)",
        ),
    ] {
        let said = of_source(line);
        let expected = if error.is_empty() { line.split(' ').next().unwrap() } else { error };
        assert!(said.starts_with(expected), "{line}: {said}");
        assert!(!error.is_empty() || said.contains("write"), "{said}");
    }
}

#[test]
fn what_is_wrong_with_ingest_is_said_where_it_stands() {
    for (file, error) in [
        (
            "[ingest.sources.shop]\ntenant = \"a\"",
            "settings: ingest.sources.shop.secret: not set; write the secret that the sender knows, or its file in secret_file, or verify = \"none\"",
        ),
        (
            "[ingest.sources.Shop]\nsecret = \"x\"",
            "settings: posthaste.toml:1: ingest.sources.Shop: not a source's name; write 1 to 64 of a-z, 0-9, \"_\" and \"-\", and not \"posthaste\"",
        ),
        (
            "[ingest.sources]\nshop = 1",
            "settings: posthaste.toml:2: ingest.sources.shop: is a section; write [ingest.sources.NAME] and its settings below it",
        ),
        (
            "[ingest]\nsources = 1",
            "settings: posthaste.toml:2: ingest.sources: is a section of sections; write [ingest.sources.NAME] and its settings below it",
        ),
        (
            "[ingest]\nlisten = \"[::]:7879\"",
            "settings: posthaste.toml:2: ingest.listen: no source may send; write a section such as [ingest.sources.gitlab], or \"off\"",
        ),
        (
            "[ingest]\nspool = \"/no/such\"",
            "settings: posthaste.toml:2: ingest.spool: there is no directory /no/such; make it, or write \"off\" for no spool",
        ),
        (
            "[ingest]\nkey_file = \"Cargo.toml\"",
            "settings: posthaste.toml:2: ingest.key_file: certificate and key go together; give both or neither",
        ),
    ] {
        assert_eq!(with_file(file).error(), error);
    }
    let variable = environment_error("POSTHASTE_INGEST__SOURCES__SHOP__SECRT", "x");
    assert_eq!(
        variable,
        "settings: POSTHASTE_INGEST__SOURCES__SHOP__SECRT: ingest.sources.shop.secrt: no such setting; did you mean ingest.sources.shop.secret?"
    );
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let by_flag = Sources { config_file: Some("/no/such.toml".into()), ..Sources::default() };
    let error = load(&by_flag).unwrap_err().to_string();
    assert!(error.contains("--config: cannot open /no/such.toml: "), "{error}");
    let by_variable = Sources {
        environment: vec![("POSTHASTE_CONFIG".into(), "/no/such.toml".into())],
        ..Sources::default()
    };
    let error = load(&by_variable).unwrap_err().to_string();
    assert!(error.contains("POSTHASTE_CONFIG: cannot open /no/such.toml: "), "{error}");
}

#[test]
fn what_kubernetes_puts_beside_our_variables_does_no_harm() {
    let service_links = [
        ("POSTHASTE_SERVICE_HOST", "10.0.0.1"),
        ("POSTHASTE_SERVICE_PORT", "7878"),
        ("POSTHASTE_SERVICE_PORT_HTTP", "7878"),
        ("POSTHASTE_PORT", "tcp://10.0.0.1:7878"),
        ("POSTHASTE_PORT_7878_TCP", "tcp://10.0.0.1:7878"),
        ("POSTHASTE_PORT_7878_TCP_ADDR", "10.0.0.1"),
        ("POSTHASTE_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("DATABASE_URL", URL),
    ];
    Given { environment: &service_links, ..Given::default() }.load().unwrap();
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let environment = vec![("DATABASE_URL".into(), OsString::from_vec(vec![0xff]))];
    let error = load(&Sources { environment, ..Sources::default() }).unwrap_err().to_string();
    assert!(error.contains("DATABASE_URL: database.url: the value is not UTF-8"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_with_a_secret_that_all_may_read_is_told_with_its_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("posthaste.toml");
    let open = |text: &str, mode: u32| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let sources = Sources {
            directory: Some(directory.path().to_owned()),
            environment: owned(&[("DATABASE_URL", URL)]),
            ..Sources::default()
        };
        load(&sources).unwrap().open_secret
    };
    let secret = "[database]\nurl = \"postgres://app:hunter2@db/shop\"";
    let told = Some((file.clone(), "database.url".to_owned()));
    assert_eq!(open(secret, 0o644), told);
    assert_eq!(open(secret, 0o640), None);
    assert_eq!(open("[database]\nurl = \"postgres://app@db/shop\"", 0o644), None);
    let source = "[ingest.sources.shop]\nsecret = \"hunter2\"";
    let told = Some((file.clone(), "ingest.sources.shop.secret".to_owned()));
    assert_eq!(open(source, 0o604), told);
}
