//! `.roi` files as ImageJ writes them, for tests.

#![allow(dead_code, reason = "each test uses a part")]

/// A `.roi` file of some type; bounds are top, left, bottom, right. A drawing makes it a composite.
pub fn roi_bytes(kind: u8, bounds: [i16; 4], drawing: &[f32]) -> Vec<u8> {
    let mut bytes = b"Iout\x00\xe3".to_vec();
    bytes.extend([kind, 0]);
    bounds.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.resize(64, 0);
    bytes[36..40].copy_from_slice(&(drawing.len() as i32).to_be_bytes());
    drawing.iter().for_each(|value| bytes.extend(value.to_be_bytes()));
    bytes
}

/// A triangle of whole coordinates, of a type with points.
pub fn triangle(kind: u8) -> Vec<u8> {
    let mut bytes = roi_bytes(kind, [10, 10, 15, 15], &[]);
    bytes[17] = 3;
    for value in [0_i16, 5, 0, 0, 0, 5] {
        bytes.extend(value.to_be_bytes());
    }
    bytes
}

/// Puts `f32`s into a `.roi` file.
pub fn put(bytes: &mut [u8], at: usize, values: &[f32]) {
    for (k, value) in values.iter().enumerate() {
        bytes[at + 4 * k..at + 4 * k + 4].copy_from_slice(&value.to_be_bytes());
    }
}

/// The file with its second header behind everything else: its place in a stack, and its name behind that.
pub fn named(mut bytes: Vec<u8>, name: &str, [channel, slice, frame]: [i32; 3]) -> Vec<u8> {
    let second = bytes.len() as i32;
    bytes[60..64].copy_from_slice(&second.to_be_bytes());
    for value in [0, channel, slice, frame, second + 64, name.encode_utf16().count() as i32] {
        bytes.extend(value.to_be_bytes());
    }
    bytes.resize(second as usize + 64, 0);
    name.encode_utf16().for_each(|unit| bytes.extend(unit.to_be_bytes()));
    bytes
}
