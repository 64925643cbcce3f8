//! The same cases as `make fuzz`, made of bytes that libFuzzer chooses by what they reach. The
//! first byte says whether the request goes through a connection.

#![no_main]

#[path = "../../tests/fuzz/mod.rs"]
#[allow(dead_code, reason = "the driver with seeds belongs to the tests")]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((way, data)) = data.split_first() else { return };
    let _ = fuzz::one(data, way.is_multiple_of(4));
});
