//! A body on its way into memory: what has come is put together in blocks of our own.
//!
//! A piece as hyper hands it over may be a single byte, and would keep alive the whole buffer that
//! it was read into, besides its own forty bytes. A block takes room when it is made, so what is
//! counted is what is in memory; and that one more was needed tells that its sender goes on. A
//! length that is only announced takes none, or a few heads would keep out all other senders.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;

use super::answer::Refused;
use super::writer::BytesPermit;
use crate::serve::ration::{Doing, Portion};

/// Bytes of the first block, and of the largest: each is twice the one before.
const FIRST: usize = 2 << 10;
const LARGEST: usize = 64 << 10;

/// Reads a body to its end, on the connection of this place. `told`: its length, if its head tells
/// it.
pub(super) async fn read<B>(
    mut body: B,
    most: usize,
    told: Option<usize>,
    (room, place): (&mut BytesPermit, &Portion),
) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refused::Broken)?.into_data() else { continue };
        if length + data.len() > most {
            return Err(Refused::TooLong { most });
        }
        let mut rest = &data[..];
        while !rest.is_empty() {
            let is_full = |block: &Vec<u8>| block.len() == block.capacity();
            if blocks.last().is_none_or(is_full) {
                let next = (FIRST << blocks.len().min(5)).min(LARGEST);
                let next = next.min(told.unwrap_or(most) - length);
                if !room.grow(next) {
                    return Err(Refused::Full);
                }
                place.now(Doing::Sending);
                blocks.push(Vec::with_capacity(next));
            }
            let block = blocks.last_mut().expect("one was just made");
            let (now, later) = rest.split_at(rest.len().min(block.capacity() - block.len()));
            block.extend_from_slice(now);
            length += now.len();
            rest = later;
        }
    }
    if blocks.len() == 1 {
        return Ok(blocks.pop().map(Bytes::from).unwrap_or_default());
    }
    // Put together when all are here: a buffer that grows would take twice the memory, and for
    // bodies that are refused too.
    let mut whole = Vec::with_capacity(length);
    blocks.into_iter().for_each(|block| whole.extend(block));
    Ok(whole.into())
}
