//! Strings that libpq takes are taken in the same sense; unsupported keywords are named; no error
//! holds a password.

use std::time::Duration;

use tokio_postgres::config::Host;

use super::*;

/// Hosts with their ports, user, password, database.
fn told(text: &str) -> String {
    let Way { config, .. } = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let ports: Vec<_> = config.get_ports().iter().map(ToString::to_string).collect();
    let password = config.get_password().map(String::from_utf8_lossy);
    format!(
        "{} {} {} {} {}",
        hosts.collect::<Vec<_>>().join(","),
        ports.join(","),
        config.get_user().unwrap_or("-"),
        password.as_deref().unwrap_or("-"),
        config.get_dbname().unwrap_or("-"),
    )
}

fn refused(text: &str) -> String {
    let error = read(text).expect_err(text).to_string();
    assert!(!error.contains("hunter2"), "{text}: {error}");
    error
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("postgres://db", "db  - - -"),
        ("postgresql://u@db/x", "db  u - x"),
        ("postgres://u:p@db:6000/x", "db 6000 u p x"),
        ("postgres://u%40a:p%3A%2F%40%25@db/x%20y", "db  u@a p:/@% x y"),
        ("postgres://u:p?q&r@db/x", "db  u p?q&r x"),
        ("postgres://u:p:q@db/x", "db  u p:q x"),
        ("postgres://a:1,b,[::1]:3/x", "a,b,::1 1,5432,3 - - x"),
        ("postgres://a,b:2/x", "a,b 5432,2 - - x"),
        ("postgres://%2Frun%2Fpg:7/x", "/run/pg 7 - - x"),
        ("postgres:///x?host=/run/pg&port=7", "/run/pg 7 - - x"),
        ("postgres://u@/x?host=%2Frun%2Fpg", "/run/pg  u - x"),
        ("postgres://a:1/x?host=b&port=2", "b 2 - - x"),
        ("postgres://a,b/x?port=7", "a,b 7 - - x"),
        ("postgres://db?user=u&password=p%26&dbname=x", "db  u p& x"),
        ("postgres://db/x?", "db  - - x"),
        ("postgres://db/x?&sslcert=&application_name=a", "db  - - x"),
        ("postgres://db/x?application_name=a@b", "db  - - x"),
        ("postgres:///x?hostaddr=10.0.0.1", "10.0.0.1  - - x"),
    ] {
        let expected = expected.replace("  ", " ");
        assert_eq!(told(text).replace("  ", " "), expected, "{text}");
    }
}

#[test]
fn pairs_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("host=db", "db  - - -"),
        (" host = db\tuser =u\n dbname= x ", "db  u - x"),
        ("host=db password='a b' user=u", "db  u a b -"),
        (r"host=db password='it\'s \\' user=u", r"db  u it's \ -"),
        (r"host=db password=a\ b\'c user=u", "db  u a b'c -"),
        ("host=db password='x=y'user=u", "db  u x=y -"),
        ("host=db password=100%41 user=u", "db  u 100%41 -"),
        ("host=db password=postgres://x user=u", "db  u postgres://x -"),
        ("host=a,b port=1,2", "a,b 1,2 - - -"),
        ("host=a,b port=,2", "a,b 5432,2 - - -"),
        ("host=/run/pg dbname='' user=u", "/run/pg  u - -"),
        ("host=a host=b", "b  - - -"),
        ("hostaddr=::1 port=7", "::1 7 - - -"),
        ("host=db password=", "db  - - -"),
    ] {
        let expected = expected.replace("  ", " ");
        assert_eq!(told(text).replace("  ", " "), expected, "{text}");
    }
}

#[test]
fn what_is_served_is_passed_on() {
    let way = read(
        "postgres://db/x?options=-c%20a=b&connect_timeout=7&keepalives_idle=30&keepalives_interval=2\
         &keepalives_count=9&tcp_user_timeout=1500&channel_binding=require&sslsni=0\
         &sslrootcert=%2Fetc%2Fca%20x.pem&sslmode=verify-ca&target_session_attrs=read-write\
         &gssencmode=prefer&fallback_application_name=y&client_encoding=UTF8&sslcompression=0",
    )
    .unwrap();
    assert_eq!(way.config.get_options(), Some("-c a=b"));
    assert_eq!(way.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(way.config.get_keepalives_idle(), Duration::from_secs(30));
    assert_eq!(way.config.get_keepalives_interval(), Some(Duration::from_secs(2)));
    assert_eq!(way.config.get_keepalives_retries(), Some(9));
    assert_eq!(way.config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
    assert_eq!(way.config.get_channel_binding(), ChannelBinding::Require);
    assert_eq!((way.mode, way.sends_name), (Mode::VerifyCa, false));
    assert_eq!(way.roots, Roots::File("/etc/ca x.pem".into()));

    let way = read("host=db keepalives=0 keepalives_interval=0 tcp_user_timeout=-1").unwrap();
    assert!(!way.config.get_keepalives());
    assert_eq!(way.config.get_keepalives_interval(), None);
    assert_eq!(way.config.get_tcp_user_timeout(), None);
}

#[test]
fn sslmode_and_sslrootcert_go_together_as_in_libpq() {
    for (words, mode, roots) in [
        ("", Mode::Prefer, Roots::Unsaid),
        ("?ssl=true", Mode::Require, Roots::Unsaid),
        ("?sslmode=allow", Mode::Prefer, Roots::Unsaid),
        ("?sslmode=disable", Mode::Disable, Roots::Unsaid),
        ("?sslmode=require&sslrootcert=/ca", Mode::Require, Roots::File("/ca".into())),
        ("?sslrootcert=system", Mode::VerifyFull, Roots::System),
        ("?sslmode=verify-full&sslrootcert=system", Mode::VerifyFull, Roots::System),
    ] {
        let way = read(&format!("postgres://db/x{words}")).unwrap();
        assert_eq!((way.mode, way.roots), (mode, roots), "{words}");
    }
    let weak = refused("postgres://db/x?sslmode=require&sslrootcert=system");
    assert_eq!(weak, "sslrootcert=system goes with sslmode=verify-full alone");
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    for (words, expected) in [
        (
            "sslcert=/c",
            "sslcert is not supported: Posthaste cannot show a client certificate to the database",
        ),
        ("sslkey=/k", "sslkey is not supported: "),
        ("sslpassword=hunter2", "sslpassword is not supported: "),
        ("sslcrl=/r", "sslcrl is not supported: "),
        ("service=s", "service is not supported: "),
        (
            "passfile=/p",
            "passfile is not supported: Posthaste does not read it; database.password_file",
        ),
        ("requirepeer=p", "requirepeer is not supported: "),
        ("require_auth=scram-sha-256", "require_auth is not supported: "),
        ("krbsrvname=p", "krbsrvname is not supported: "),
        ("gssencmode=require", "gssencmode is supported as disable or prefer alone: "),
        (
            "target_session_attrs=standby",
            "target_session_attrs is supported as any or read-write or primary alone: ",
        ),
        ("load_balance_hosts=random", "load_balance_hosts is supported as disable alone: "),
        ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version is supported as "),
        ("sslnegotiation=direct", "sslnegotiation is supported as postgres alone: "),
        ("replication=database", "replication is supported as "),
        ("client_encoding=LATIN1", "client_encoding is supported as "),
        ("sslmode=full", "sslmode is disable, allow, prefer, require, verify-ca or verify-full"),
        ("sslsni=yes", "sslsni is 0 or 1"),
        ("channel_binding=on", "channel_binding is disable, prefer or require"),
        ("connect_timeout=0", "connect_timeout is 1 to 300 seconds, "),
        ("connect_timeout=5s", "connect_timeout is to be a whole number"),
        ("keepalives_idle=x", "keepalives_idle is to be a whole number"),
        ("hostaddr=db", "hostaddr is to be an IP address"),
        ("hostaddr=::1,::2", "host and hostaddr do not name equally many"),
        ("port=1,2", "port does not name one port, nor as many as there are hosts"),
        ("port=70000", "a port is to be a number of 1 to 65535"),
        ("host=a,,b", "one of its hosts has no name"),
        ("host=@x", "host is not supported with an @ in front"),
        ("sslmod=require", "PostgreSQL knows no sslmod in a connection string; is it sslmode?"),
        (
            "ApplicationName=x",
            "PostgreSQL knows no ApplicationName in a connection string; is it application_name?",
        ),
        ("pgbouncer=true", "PostgreSQL knows no pgbouncer in a connection string"),
    ] {
        for text in [
            format!("postgres://u:hunter2@db/x?{words}"),
            format!("host=db password=hunter2 user=u {words}"),
        ] {
            assert!(refused(&text).starts_with(expected), "{text}: {}", refused(&text));
        }
    }
    assert!(refused("dbname=x").starts_with("it names no host"));
    assert!(refused("postgres:///x").starts_with("it names no host"));
}

#[test]
fn a_password_that_is_not_written_as_it_must_be_is_in_no_error() {
    for text in [
        "postgres://u:hunter2/x@db/x",
        "postgres://u:12/hunter2@db/x",
        "postgres://u:a@hunter2@db/x",
        "postgres://u:a@b/hunter2@db/x",
        "postgres://u:12/b?hunter2=x@db/x",
        "postgres://u:12/b?hunter2@db/x",
        "postgres://u:hunter2%@db/x",
        "postgres://u:%00hunter2@db/x",
        "postgres://u:hunter2%FF@db/x",
        "postgres://db/x?password=a&hunter2=b",
        "postgres://db/x?password=a&hunter2",
        "postgres://[hunter2/x",
        "postgres://[::1]hunter2/x",
        "host=db password=a hunter2",
        "host=db password=a hunter2=b",
        "host=db password='hunter2",
        "u:hunter2@db/x",
        "mysql://u:hunter2@db/x?a=b",
        "hunter2",
    ] {
        assert!(!refused(text).is_empty());
    }
}

#[test]
fn keywords_are_in_order_and_each_once() {
    assert!(KEYWORDS.is_sorted_by(|(one, _), (other, _)| one < other));
}
