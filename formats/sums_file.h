#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Lists of SHA-256 digests. Written in the form of coreutils' sha256sum: "HEX  NAME" lines, names
// with a backslash, newline or carriage return escaped and the line then begun with a backslash.
// `sha256sum -c` reads it. Read in every form that publishers use.
namespace dsv3::formats {

inline constexpr std::string_view kSumsName = "SHA256SUMS";
inline constexpr std::uint64_t kMaxSumsBytes = std::uint64_t{64} << 20;

// Whether a file of this name holds SHA-256 digests of other files: in capitals or not, a name that
// ends with "sha256sums", "sha256sum", "shasums256", "shasums", "checksums", "checksum", "sha256"
// or "sha-256", with ".txt" or ".asc" (a list that PGP signed) behind it or not.
bool IsSumsName(std::string_view file_name);

// Whether a file of this name is the signature of such a list: the list's name with ".asc", ".gpg",
// ".sig", ".sign", ".minisig" or ".sigstore" behind it, in capitals or not. ".asc" may also be a
// list that holds its signature itself, see ParseSums.
bool IsSumsSignatureName(std::string_view file_name);

// Of a file whose name says that it holds digests of another kind ("SHA512SUMS", "a.bin.md5",
// "B3SUMS.txt", "model.sfv"): how the kind is called ("SHA-512", "MD5", "BLAKE3", "CRC32"). Empty
// for other names.
std::string_view OtherDigestOfName(std::string_view file_name);

// Whether a file of this name may hold digests of other files in a form that is not read, such as
// "checksums.json", "SHA256SUMS.md" or "hashes.txt"; also true of names of lists that are read.
bool MayBeSumsName(std::string_view file_name);

struct SumsEntry {
  std::string name;  // as it is on the disk; any bytes but NUL; empty for a digest alone
  std::string sha256;
  std::size_t line = 0;  // its number in the file, from 1
};

// A line of no known form.
enum class BadSumsLine {
  kUnknown,
  kSwapped,      // the name first, the digest second
  kOtherDigest,  // a digest of another kind, such as MD5
  kCutName,      // PowerShell cut the end of the name off
};

struct SumsFile {
  std::vector<SumsEntry> entries;          // in the order of the file
  std::vector<std::size_t> bad_lines;      // numbers of lines that have no known form, from 1
  std::vector<BadSumsLine> bad_forms;      // the likely nature of each of them
  std::vector<std::string> other_digests;  // of kOtherDigest the kind ("MD5"), else empty
};

// One line, its newline included. Without a name, it is the digest alone.
std::string SumsLine(std::string_view name, std::string_view sha256);

// Reads, in any mixture:
// - sha256sum's forms: "HEX  NAME", "HEX *NAME" (binary), with escapes; also with one blank or a
//   tab (BSD's `sha256 -r`), and the digest alone, each also with "sha256:" before the digest,
// - "SHA256 (NAME) = HEX" (--tag, BSD) and openssl's "SHA256(NAME)= HEX", "SHA2-256(NAME)= HEX",
// - certutil's and PowerShell's forms, see sums_windows.h.
// The text may be UTF-8, UTF-16 or UTF-32, with a byte order mark or without, and its lines may end
// with LF, CR LF, CR or NUL. Skipped are empty lines, those that begin with '#' or ';', and the
// frame of a text that PGP signed; its signature is not checked. A "./" before a name is dropped.
// Digests are returned in lowercase. Names are not judged: see relative_name.h.
SumsFile ParseSums(std::string_view text);

}  // namespace dsv3::formats
