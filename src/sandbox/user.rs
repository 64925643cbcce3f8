//! The user that a private PostgreSQL server runs as: it refuses to run as root, and a process in a
//! container is often root.

/// Searched for in this order.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];
const ROOT: u32 = 0;

/// Numbers from `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// Why there is no user to run the server as.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("read /etc/passwd")]
    Read(#[source] std::io::Error),
    #[error("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")]
    NoUser,
}

/// `None` if this process (`our_uid`) is not root: the server runs as the same user.
pub(super) fn for_server(our_uid: u32) -> Result<Option<User>, UserError> {
    if our_uid != ROOT {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(UserError::Read)?;
    let found = UNPRIVILEGED.iter().find_map(|name| find(&passwd, name));
    found.map(Some).ok_or(UserError::NoUser)
}

/// A line is `name:password:uid:gid:…`.
fn find(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgresql:x:5:6::/:\npostgres:x:101:104:PG:/:\n";
        assert_eq!(find(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(find(passwd, "nobody"), None);
    }

    #[test]
    fn we_change_the_user_only_as_root() {
        assert_eq!(for_server(1000).unwrap(), None);
    }
}
