//! TensorBoard's event files: framed protocol buffers, written by hand since three messages are all it takes.
//!
//! A record is its length (u64, little endian), a masked CRC-32C of those eight bytes, the data, and a masked
//! CRC-32C of the data. The data is an `Event`: wall time (field 1, double), step (2, varint), and either the
//! file version (3, string) or a summary (5) of one value (1) with a tag (1, string) and a number (2, float).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends scalars to one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
}

impl EventWriter {
    /// A new file in `folder`, named by the first step that it will hold. Events of earlier files with that
    /// step or later ones, which a killed run may have left, are removed with their files.
    ///
    /// # Errors
    /// If the folder or file cannot be written.
    pub fn create(folder: &Path, first_step: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let step = name.strip_prefix("events.out.tfevents.").and_then(|step| step.parse::<u64>().ok());
            if step.is_some_and(|step| step >= first_step) {
                fs::remove_file(&path)?;
            }
        }
        // TensorBoard sorts files by name and lets later ones override: digits of fixed width.
        let file = File::create(folder.join(format!("events.out.tfevents.{first_step:010}")))?;
        let mut writer = Self { file: BufWriter::new(file) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut event = double_field(1, now);
        event.extend(bytes_field(3, b"brain.Event:2"));
        writer.record(&event)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds one number.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn scalar(&mut self, tag: &str, step: u64, wall_time_secs: f64, value: f32) -> io::Result<()> {
        self.record(&scalar_event(tag, step, wall_time_secs, value))
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc(&length).to_le_bytes())?;
        self.file.write_all(data)?;
        self.file.write_all(&masked_crc(data).to_le_bytes())
    }
}

fn scalar_event(tag: &str, step: u64, wall_time_secs: f64, value: f32) -> Vec<u8> {
    let mut summary_value = bytes_field(1, tag.as_bytes());
    summary_value.push(2 << 3 | 5);
    summary_value.extend(value.to_le_bytes());
    let mut event = double_field(1, wall_time_secs);
    event.push(2 << 3);
    event.extend(varint(step));
    event.extend(bytes_field(5, &bytes_field(1, &summary_value)));
    event
}

/// TFRecord's masking: rotated, so that the checksum of data that holds checksums stays useful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn double_field(field: u8, value: f64) -> Vec<u8> {
    let mut out = vec![field << 3 | 1];
    out.extend(value.to_le_bytes());
    out
}

fn bytes_field(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    out.extend(varint(bytes.len() as u64));
    out.extend(bytes);
    out
}

/// Seven bits a byte, the lowest first.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_encoded_as_the_messages_say() {
        let want = [
            &[0x09][..],
            &2.5_f64.to_le_bytes(), // wall time
            &[0x10, 0xac, 0x02],    // step 300
            &[0x2a, 12, 0x0a, 10],  // summary of one value
            &[0x0a, 3],
            b"a/b", // its tag
            &[0x15],
            &1.5_f32.to_le_bytes(), // its number
        ]
        .concat();
        assert_eq!(scalar_event("a/b", 300, 2.5, 1.5), want);
        assert_eq!(masked_crc(b""), 0xa282_ead8);
        // CRC-32C of "123456789" is 0xe3069283 (RFC 3720, appendix B.4, and the catalogue of CRCs).
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_resumed_run_drops_what_it_will_write_again() {
        let folder = tempfile::tempdir().unwrap();
        for first_step in [1, 41, 81] {
            EventWriter::create(folder.path(), first_step)
                .unwrap()
                .scalar("x", first_step, 0.0, 1.0)
                .unwrap();
        }
        EventWriter::create(folder.path(), 41).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["events.out.tfevents.0000000001", "events.out.tfevents.0000000041"]);
    }
}
