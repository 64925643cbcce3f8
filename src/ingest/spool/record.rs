//! The format of a file of the spool: one webhook, so written that any changed byte shows.
//!
//! ```text
//! posthaste spool 1 META PAYLOAD SHA256
//! {"source": …}
//! {"the": "payload"}
//! ```
//!
//! The first line says how many bytes the next two parts have, and the digest of both and of the
//! two numbers. A person can read it.

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use crate::model::incoming::{Incoming, Payload};

const MAGIC: &str = "posthaste spool 1";

/// The file is not as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::ingest) enum Broken {
    #[error("it is not a file of the spool, or of another version")]
    Strange,
    #[error("it is not whole")]
    Cut,
    #[error("its digest does not fit: its bytes have changed")]
    Changed,
}

pub(super) fn write(incoming: &Incoming) -> Vec<u8> {
    let meta = json!({
        "source": incoming.source,
        "sender_id": incoming.sender_id,
        "event_type": incoming.event_type,
        "tenant": incoming.tenant,
        "ordering_key": incoming.ordering_key,
        "headers": incoming.headers,
    })
    .to_string();
    let payload = incoming.payload.as_str();
    let digest = digest(meta.len(), payload.len(), meta.as_bytes(), payload.as_bytes());
    let head = format!("{MAGIC} {} {} {digest}\n", meta.len(), payload.len());
    [head.as_bytes(), meta.as_bytes(), b"\n", payload.as_bytes(), b"\n"].concat()
}

pub(super) fn read(file: &Bytes) -> Result<Incoming, Broken> {
    /// Longer than any first line.
    const HEAD: usize = 256;
    let start = &file[..file.len().min(HEAD)];
    let Some(end) = start.iter().position(|&byte| byte == b'\n') else {
        return Err(if file.len() < HEAD { Broken::Cut } else { Broken::Strange });
    };
    let head = std::str::from_utf8(&start[..end]).map_err(|_| Broken::Strange)?;
    let words = head.strip_prefix(MAGIC).map(|rest| rest.split(' ').skip(1).collect::<Vec<_>>());
    let Some([meta, payload, said]) = words.as_deref() else { return Err(Broken::Strange) };
    let length = |text: &str| text.parse::<usize>().map_err(|_| Broken::Strange);
    let (meta, payload) = (length(meta)?, length(payload)?);
    let meta_end = (end + 1).checked_add(meta).ok_or(Broken::Strange)?;
    let payload_end = meta_end.checked_add(1 + payload).ok_or(Broken::Strange)?;
    if file.len() <= payload_end {
        return Err(Broken::Cut);
    }
    let (meta_bytes, payload_bytes) =
        (&file[end + 1..meta_end], file.slice(meta_end + 1..payload_end));
    let separated = file[meta_end] == b'\n' && &file[payload_end..] == b"\n";
    if !separated || digest(meta, payload, meta_bytes, &payload_bytes) != *said {
        return Err(Broken::Changed);
    }
    let meta: Value = serde_json::from_slice(meta_bytes).map_err(|_| Broken::Strange)?;
    let text = |key: &str| meta[key].as_str().map(str::to_owned);
    let needed = |key: &str| text(key).ok_or(Broken::Strange);
    Ok(Incoming {
        source: needed("source")?,
        sender_id: needed("sender_id")?,
        event_type: needed("event_type")?,
        tenant: text("tenant"),
        ordering_key: text("ordering_key"),
        headers: needed("headers")?,
        payload: Payload::new(payload_bytes).ok_or(Broken::Strange)?,
    })
}

fn digest(meta_len: usize, payload_len: usize, meta: &[u8], payload: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(format!("{meta_len} {payload_len} ").as_bytes());
    context.update(meta);
    context.update(payload);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn incoming(payload: &str) -> Incoming {
        Incoming {
            source: "gitlab".to_owned(),
            sender_id: "b1f4\u{fc}".to_owned(),
            event_type: "gitlab.push_hook".to_owned(),
            tenant: None,
            ordering_key: Some("\"7\"\n".to_owned()),
            headers: r#"{"x-gitlab-event":"Push Hook"}"#.to_owned(),
            payload: Payload::new(payload.to_owned().into()).unwrap(),
        }
    }

    #[test]
    fn a_file_that_breaks_off_anywhere_is_told_from_a_whole_one() {
        let incoming = incoming("{ \"a\" :\n\t1.10e2 }\n");
        let whole = write(&incoming);
        assert_eq!(read(&whole.clone().into()), Ok(incoming));
        for length in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..length]);
            assert_eq!(read(&cut), Err(Broken::Cut), "{length} of {}", whole.len());
        }
    }

    #[test]
    fn a_file_of_which_any_bit_has_changed_is_told_from_a_whole_one() {
        let whole = write(&incoming("{}"));
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[place] ^= 1 << bit;
                assert!(read(&changed.into()).is_err(), "bit {bit} of byte {place}");
            }
        }
        for more in [&b"\n"[..], b"x", b"{}"] {
            assert_eq!(read(&[&whole, more].concat().into()), Err(Broken::Changed));
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(payload in any::<String>(), key in any::<Option<String>>()) {
            let incoming = Incoming { ordering_key: key, ..incoming(&payload) };
            prop_assert_eq!(read(&write(&incoming).into()), Ok(incoming));
        }

        #[test]
        fn no_bytes_bring_the_reader_down(bytes in any::<Vec<u8>>(), lengths in any::<(u64, u64)>()) {
            prop_assert!(read(&bytes.clone().into()).is_err());
            let head = format!("{MAGIC} {} {} x\n", lengths.0, lengths.1);
            prop_assert!(read(&[head.as_bytes(), &bytes].concat().into()).is_err());
        }
    }
}
