//! TLS towards the database is as strict as `sslmode` says, and no stricter: a server that psql
//! connects to is one that a relay connects to.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use tokio::process::Command;

use crate::support::{Receiver, Relay, Server, endpoint, event, holds, settled, within};

/// By the recipe of PostgreSQL's manual ("Creating Certificates"), with OpenSSL 3.0, which makes it
/// X.509 version 1. Valid for a hundred years.
const VERSION_1: [(&str, &str); 2] = [
    ("server.crt", include_str!("certificates/version1.crt")),
    ("server.key", include_str!("certificates/version1.key")),
];

#[tokio::test]
async fn a_certificate_that_is_not_to_be_checked_may_be_of_any_version() {
    let server = Server::start(&[]).await;
    let data = server.cluster().directory().join("data");
    let owner = fs::metadata(&data).unwrap();
    for (name, pem) in VERSION_1 {
        let file = data.join(name);
        fs::write(&file, pem).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let client = server.client().await;
    client.batch_execute("alter system set ssl = on").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(&client).await;
    for (mode, words) in
        [("absent", ""), ("prefer", "?sslmode=prefer"), ("require", "?sslmode=require")]
    {
        let before = receiver.received().len();
        let mut relay = Relay::on(&format!("{}{words}", server.url())).start().await;
        event("order.paid").add(&client).await;
        receiver.wait_for(before + 1).await;
        settled(&client).await;
        let encrypted = "count(*) > 2 and bool_and(ssl) from pg_stat_ssl join pg_stat_activity \
                         using (pid) where application_name = 'posthaste'";
        holds(&client, encrypted).await;
        assert!(relay.stop().await.success(), "{mode}");
    }

    let mut strict = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    let url = format!(
        "{}?sslmode=verify-ca&sslrootcert={}",
        server.url(),
        data.join("server.crt").display()
    );
    strict.args(["doctor"]).env_clear().env("DATABASE_URL", url);
    strict.current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true);
    let refused = within("the doctor", strict.output()).await.unwrap();
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
}
