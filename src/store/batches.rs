//! Batches: what one step of routing has claimed, and which deliveries of it are meant.

use std::collections::BTreeMap;
use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::model::delivery::BatchPlace;

/// A bit for each delivery of a batch: `bit varying`, which Postgres sends as the number of bits
/// and then the bits, the first of them the highest of its byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    length: usize,
    bytes: Vec<u8>,
}

impl Bits {
    /// As many, none of them set.
    #[must_use]
    pub(super) fn none(length: usize) -> Self {
        Self { length, bytes: vec![0; length.div_ceil(8)] }
    }

    /// Sets the bit at this place. There is none beyond the length.
    pub(super) fn set(&mut self, at: usize) {
        if let Some(byte) = self.bytes.get_mut(at / 8).filter(|_| at < self.length) {
            *byte |= 0x80 >> (at % 8);
        }
    }

    /// Whether no bit is set.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether the bit at this place is set.
    #[must_use]
    pub(super) fn has(&self, at: usize) -> bool {
        self.bytes.get(at / 8).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
    }
}

impl ToSql for Bits {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i32(i32::try_from(self.length)?);
        out.put_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::VARBIT
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Bits {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let (length, bytes) = raw.split_first_chunk().ok_or("bits without their number")?;
        let length = usize::try_from(i32::from_be_bytes(*length))?;
        if bytes.len() != length.div_ceil(8) {
            return Err(format!("{length} bits in {} bytes", bytes.len()).into());
        }
        Ok(Self { length, bytes: bytes.to_vec() })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::VARBIT
    }
}

/// Deliveries of batches, a bit for each. By token, so that all statements lock batches in one
/// order.
#[derive(Debug, Default)]
pub(super) struct Marked(BTreeMap<i64, Bits>);

impl Marked {
    /// Marks the delivery at this place of the batch under this token.
    pub(super) fn mark(&mut self, token: i64, place: BatchPlace) {
        let none = || Bits::none(place.of as usize);
        self.0.entry(token).or_insert_with(none).set(place.at as usize);
    }

    /// Two columns: the tokens, and the bits under each.
    #[must_use]
    pub(super) fn columns(self) -> (Vec<i64>, Vec<Bits>) {
        self.0.into_iter().unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(bits: &Bits) -> Vec<u8> {
        let mut out = BytesMut::new();
        bits.to_sql(&Type::VARBIT, &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn bits_are_sent_with_their_number_the_first_as_the_highest() {
        let mut bits = Bits::none(10);
        bits.set(0);
        bits.set(9);
        bits.set(10); // beyond
        assert_eq!(sent(&bits), [0, 0, 0, 10, 0b1000_0000, 0b0100_0000]);
        assert_eq!(Bits::from_sql(&Type::VARBIT, &sent(&bits)).unwrap(), bits);
        let set: Vec<_> = (0..99).filter(|at| bits.has(*at)).collect();
        assert_eq!(set, [0, 9]);
    }

    #[test]
    fn bits_that_are_cut_are_refused() {
        for raw in [&[][..], &[0, 0, 0], &[0, 0, 0, 9, 0], &[0, 0, 0, 8], &[255, 255, 255, 255]] {
            Bits::from_sql(&Type::VARBIT, raw).unwrap_err();
        }
    }

    #[test]
    fn deliveries_are_marked_under_their_tokens_in_order() {
        let mut marked = Marked::default();
        for (token, at) in [(7, 0), (3, 1), (7, 2)] {
            marked.mark(token, BatchPlace { at, of: 3 });
        }
        let (tokens, bits) = marked.columns();
        assert_eq!(tokens, [3, 7]);
        let has = |bits: &Bits| [0, 1, 2].map(|at| bits.has(at));
        assert_eq!(
            bits.iter().map(has).collect::<Vec<_>>(),
            [[false, true, false], [true, false, true]]
        );
    }
}
