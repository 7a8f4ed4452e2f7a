#pragma once

#include <array>
#include <string_view>

// Signatures that the Python tool model_signing 1.1.1 made of one small model, and the keys, which
// serve nothing else.
namespace dsv3::testing {

struct SignatureVector {
  std::string_view curve;
  std::string_view private_key;
  std::string_view public_key;
  std::string_view bundle;
};

struct SignedModelFile {
  std::string_view name;
  std::string_view content;
};

// The model, in the order of the signatures; its name is "model". A .gitignore lay beside them.
inline constexpr std::array<SignedModelFile, 3> kSignedModel = {
    {{"config.json", "{}\n"}, {"sub/x", "two"}, {"sub-a", "one"}}};

inline constexpr std::array<SignatureVector, 3> kSignatureVectors = {{
    {
        "P-256",
        "-----BEGIN PRIVATE KEY-----\n"
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfPZmGX8Ie0FY/KAd\n"
        "bxn8P6R/84JgaLOwJQ57z+2iUlWhRANCAARhXX25z9QOr1+gLrOCC62N2SwhBa2Y\n"
        "i/1QjCW7mNezgU7qZQFk5wFbRXNA9f+a7ntWNRdVcOl/9r155rpXoC8+\n"
        "-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n"
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYV19uc/UDq9foC6zggutjdksIQWt\n"
        "mIv9UIwlu5jXs4FO6mUBZOcBW0VzQPX/mu57VjUXVXDpf/a9eea6V6AvPg==\n"
        "-----END PUBLIC KEY-----\n",
        "{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMateri"
        "al\":{\"publicKey\":{\"hint\":\"7a29040670a785db95fcc45b95635aea2f3213ebf635131c09a469"
        "a1b66187ba\"},\"tlogEntries\":[]},\"dsseEnvelope\":{\"payload\":\"ewogICJfdHlwZSI6ICJodH"
        "RwczovL2luLXRvdG8uaW8vU3RhdGVtZW50L3YxIiwKICAic3ViamVjdCI6IFsKICAgIHsKICAgICAgIm"
        "5hbWUiOiAibW9kZWwiLAogICAgICAiZGlnZXN0IjogewogICAgICAgICJzaGEyNTYiOiAiY2M4OTU0Mj"
        "VjZmQ3NjAwNzgyYjU5ODUxMzQwY2JjNjY2ZmM2NmQ5NWMyY2MxZDM2Nzc0NGZjNjc5MzYwZWFiNSIKIC"
        "AgICAgfQogICAgfQogIF0sCiAgInByZWRpY2F0ZVR5cGUiOiAiaHR0cHM6Ly9tb2RlbF9zaWduaW5nL3"
        "NpZ25hdHVyZS92MS4wIiwKICAicHJlZGljYXRlIjogewogICAgInJlc291cmNlcyI6IFsKICAgICAgew"
        "ogICAgICAgICJkaWdlc3QiOiAiY2EzZDE2M2JhYjA1NTM4MTgyNzIyNjE0MDU2OGYzYmVmN2VhYWMxOD"
        "djZWJkNzY4NzhlMGI2M2U5ZTQ0MjM1NiIsCiAgICAgICAgImFsZ29yaXRobSI6ICJzaGEyNTYiLAogIC"
        "AgICAgICJuYW1lIjogImNvbmZpZy5qc29uIgogICAgICB9LAogICAgICB7CiAgICAgICAgImRpZ2VzdC"
        "I6ICIzZmM0Y2NmZTc0NTg3MGUyYzBkOTlmNzFmMzBmZjA2NTZjOGRlZGQ0MWNjMWQ3ZDNkMzc2YjBkYm"
        "U2ODVlMmYzIiwKICAgICAgICAiYWxnb3JpdGhtIjogInNoYTI1NiIsCiAgICAgICAgIm5hbWUiOiAic3"
        "ViL3giCiAgICAgIH0sCiAgICAgIHsKICAgICAgICAiZGlnZXN0IjogIjc2OTJjM2FkMzU0MGJiODAzYz"
        "AyMGIzYWVlNjZjZDg4ODcxMjMyMzRlYTBjNmU3MTQzYzBhZGQ3M2ZmNDMxZWQiLAogICAgICAgICJhbG"
        "dvcml0aG0iOiAic2hhMjU2IiwKICAgICAgICAibmFtZSI6ICJzdWItYSIKICAgICAgfQogICAgXSwKIC"
        "AgICJzZXJpYWxpemF0aW9uIjogewogICAgICAibWV0aG9kIjogImZpbGVzIiwKICAgICAgImFsbG93X3"
        "N5bWxpbmtzIjogZmFsc2UsCiAgICAgICJoYXNoX3R5cGUiOiAic2hhMjU2IiwKICAgICAgImlnbm9yZV"
        "9wYXRocyI6IFsKICAgICAgICAiLmdpdGlnbm9yZSIsCiAgICAgICAgIi5naXRhdHRyaWJ1dGVzIiwKIC"
        "AgICAgICAibW9kZWwuc2lnIiwKICAgICAgICAiLmdpdCIsCiAgICAgICAgIi5naXRodWIiCiAgICAgIF"
        "0KICAgIH0KICB9Cn0=\",\"payloadType\":\"application/vnd.in-toto+json\",\"signatures\":[{"
        "\"sig\":\"MEUCIFzYG73Ml1FSyB6Uoej7ZKWRst/3EJCmucAzpQ1SjRzoAiEA8/hl1QOZlL+eQ6ilH4itB"
        "gwqnlK01sYIrE/y4j7UUwU=\",\"keyid\":\"\"}]}}",
    },
    {
        "P-384",
        "-----BEGIN PRIVATE KEY-----\n"
        "MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDCAjKovGJcb0B82tZ6D\n"
        "JGD4q8o9kZMHBFt5EyrPQHdkaxYb7UjPuhC0tU+/sFnFHJShZANiAAQPTKK/pMJT\n"
        "Ttk8xVLLWlAM5vWS0+eD1yn6fPXm5t30u942HLtfgImcmKmJlW7JcRepOT+2HlLM\n"
        "11ahDnKbBMbucbduqObpAPZc8+2+krfP9dBpdKozRZ4spgES58Mk1Bs=\n"
        "-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n"
        "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAED0yiv6TCU07ZPMVSy1pQDOb1ktPng9cp\n"
        "+nz15ubd9LveNhy7X4CJnJipiZVuyXEXqTk/th5SzNdWoQ5ymwTG7nG3bqjm6QD2\n"
        "XPPtvpK3z/XQaXSqM0WeLKYBEufDJNQb\n"
        "-----END PUBLIC KEY-----\n",
        "{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMateri"
        "al\":{\"publicKey\":{\"hint\":\"dfea1304bf19088e6d1fb64b7f94dd8dc149246d54c3153990620a"
        "b3935db494\"},\"tlogEntries\":[]},\"dsseEnvelope\":{\"payload\":\"ewogICJfdHlwZSI6ICJodH"
        "RwczovL2luLXRvdG8uaW8vU3RhdGVtZW50L3YxIiwKICAic3ViamVjdCI6IFsKICAgIHsKICAgICAgIm"
        "5hbWUiOiAibW9kZWwiLAogICAgICAiZGlnZXN0IjogewogICAgICAgICJzaGEyNTYiOiAiY2M4OTU0Mj"
        "VjZmQ3NjAwNzgyYjU5ODUxMzQwY2JjNjY2ZmM2NmQ5NWMyY2MxZDM2Nzc0NGZjNjc5MzYwZWFiNSIKIC"
        "AgICAgfQogICAgfQogIF0sCiAgInByZWRpY2F0ZVR5cGUiOiAiaHR0cHM6Ly9tb2RlbF9zaWduaW5nL3"
        "NpZ25hdHVyZS92MS4wIiwKICAicHJlZGljYXRlIjogewogICAgInNlcmlhbGl6YXRpb24iOiB7CiAgIC"
        "AgICJpZ25vcmVfcGF0aHMiOiBbCiAgICAgICAgIm1vZGVsLnNpZyIsCiAgICAgICAgIi5naXRpZ25vcm"
        "UiLAogICAgICAgICIuZ2l0aHViIiwKICAgICAgICAiLmdpdCIsCiAgICAgICAgIi5naXRhdHRyaWJ1dG"
        "VzIgogICAgICBdLAogICAgICAiaGFzaF90eXBlIjogInNoYTI1NiIsCiAgICAgICJhbGxvd19zeW1saW"
        "5rcyI6IGZhbHNlLAogICAgICAibWV0aG9kIjogImZpbGVzIgogICAgfSwKICAgICJyZXNvdXJjZXMiOi"
        "BbCiAgICAgIHsKICAgICAgICAiYWxnb3JpdGhtIjogInNoYTI1NiIsCiAgICAgICAgImRpZ2VzdCI6IC"
        "JjYTNkMTYzYmFiMDU1MzgxODI3MjI2MTQwNTY4ZjNiZWY3ZWFhYzE4N2NlYmQ3Njg3OGUwYjYzZTllND"
        "QyMzU2IiwKICAgICAgICAibmFtZSI6ICJjb25maWcuanNvbiIKICAgICAgfSwKICAgICAgewogICAgIC"
        "AgICJhbGdvcml0aG0iOiAic2hhMjU2IiwKICAgICAgICAiZGlnZXN0IjogIjNmYzRjY2ZlNzQ1ODcwZT"
        "JjMGQ5OWY3MWYzMGZmMDY1NmM4ZGVkZDQxY2MxZDdkM2QzNzZiMGRiZTY4NWUyZjMiLAogICAgICAgIC"
        "JuYW1lIjogInN1Yi94IgogICAgICB9LAogICAgICB7CiAgICAgICAgImFsZ29yaXRobSI6ICJzaGEyNT"
        "YiLAogICAgICAgICJkaWdlc3QiOiAiNzY5MmMzYWQzNTQwYmI4MDNjMDIwYjNhZWU2NmNkODg4NzEyMz"
        "IzNGVhMGM2ZTcxNDNjMGFkZDczZmY0MzFlZCIsCiAgICAgICAgIm5hbWUiOiAic3ViLWEiCiAgICAgIH"
        "0KICAgIF0KICB9Cn0=\",\"payloadType\":\"application/vnd.in-toto+json\",\"signatures\":[{"
        "\"sig\":\"MGUCMQCyTFEdsPnJFJZhyqwRKNunu5+Smmyv7w7udNXGU6W42NeFocE28k/m6iyUy4b9ibwCM"
        "FLLeTS7xCDqDbapfjqpo64R9Q0q1nWPq12giDTH+Mo+W3O7VERJGJJHlZoPHDm9Vw==\",\"keyid\":\"\"}"
        "]}}",
    },
    {
        "P-521",
        "-----BEGIN PRIVATE KEY-----\n"
        "MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIA0Ym8tQ1lzGt+Sy97\n"
        "hFrsZULadyHfI7LADRneMfCpovoclIDJugf1ztBOy7dwlz0lyZdbovcAS1TYgSty\n"
        "Zhsn8/GhgYkDgYYABAGCunvldfURNHuj+JRYHhCgms0NIzACikLgHMwDzJD6ISHp\n"
        "uYM8T8h34+OjxoAP+jRXGmc0h8nrRXvurI21RraXOgHaFOLJ6oj8ftms3Z51B3Sw\n"
        "b1iKV640okF45PoPU7AESb+AcjYKgOpGypk8A5bZQg6xhYAOvQosa869XL0pamdO\n"
        "PQ==\n"
        "-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n"
        "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBgrp75XX1ETR7o/iUWB4QoJrNDSMw\n"
        "AopC4BzMA8yQ+iEh6bmDPE/Id+Pjo8aAD/o0VxpnNIfJ60V77qyNtUa2lzoB2hTi\n"
        "yeqI/H7ZrN2edQd0sG9YileuNKJBeOT6D1OwBEm/gHI2CoDqRsqZPAOW2UIOsYWA\n"
        "Dr0KLGvOvVy9KWpnTj0=\n"
        "-----END PUBLIC KEY-----\n",
        "{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"verificationMateri"
        "al\":{\"publicKey\":{\"hint\":\"00f6a403395690bba6d4af55a76b77b80f0c9ce8f3dc2480930f44"
        "20e740fe43\"},\"tlogEntries\":[]},\"dsseEnvelope\":{\"payload\":\"ewogICJfdHlwZSI6ICJodH"
        "RwczovL2luLXRvdG8uaW8vU3RhdGVtZW50L3YxIiwKICAic3ViamVjdCI6IFsKICAgIHsKICAgICAgIm"
        "5hbWUiOiAibW9kZWwiLAogICAgICAiZGlnZXN0IjogewogICAgICAgICJzaGEyNTYiOiAiY2M4OTU0Mj"
        "VjZmQ3NjAwNzgyYjU5ODUxMzQwY2JjNjY2ZmM2NmQ5NWMyY2MxZDM2Nzc0NGZjNjc5MzYwZWFiNSIKIC"
        "AgICAgfQogICAgfQogIF0sCiAgInByZWRpY2F0ZVR5cGUiOiAiaHR0cHM6Ly9tb2RlbF9zaWduaW5nL3"
        "NpZ25hdHVyZS92MS4wIiwKICAicHJlZGljYXRlIjogewogICAgInJlc291cmNlcyI6IFsKICAgICAgew"
        "ogICAgICAgICJkaWdlc3QiOiAiY2EzZDE2M2JhYjA1NTM4MTgyNzIyNjE0MDU2OGYzYmVmN2VhYWMxOD"
        "djZWJkNzY4NzhlMGI2M2U5ZTQ0MjM1NiIsCiAgICAgICAgIm5hbWUiOiAiY29uZmlnLmpzb24iLAogIC"
        "AgICAgICJhbGdvcml0aG0iOiAic2hhMjU2IgogICAgICB9LAogICAgICB7CiAgICAgICAgImRpZ2VzdC"
        "I6ICIzZmM0Y2NmZTc0NTg3MGUyYzBkOTlmNzFmMzBmZjA2NTZjOGRlZGQ0MWNjMWQ3ZDNkMzc2YjBkYm"
        "U2ODVlMmYzIiwKICAgICAgICAibmFtZSI6ICJzdWIveCIsCiAgICAgICAgImFsZ29yaXRobSI6ICJzaG"
        "EyNTYiCiAgICAgIH0sCiAgICAgIHsKICAgICAgICAiZGlnZXN0IjogIjc2OTJjM2FkMzU0MGJiODAzYz"
        "AyMGIzYWVlNjZjZDg4ODcxMjMyMzRlYTBjNmU3MTQzYzBhZGQ3M2ZmNDMxZWQiLAogICAgICAgICJuYW"
        "1lIjogInN1Yi1hIiwKICAgICAgICAiYWxnb3JpdGhtIjogInNoYTI1NiIKICAgICAgfQogICAgXSwKIC"
        "AgICJzZXJpYWxpemF0aW9uIjogewogICAgICAiaGFzaF90eXBlIjogInNoYTI1NiIsCiAgICAgICJpZ2"
        "5vcmVfcGF0aHMiOiBbCiAgICAgICAgIi5naXRodWIiLAogICAgICAgICIuZ2l0IiwKICAgICAgICAiLm"
        "dpdGlnbm9yZSIsCiAgICAgICAgIm1vZGVsLnNpZyIsCiAgICAgICAgIi5naXRhdHRyaWJ1dGVzIgogIC"
        "AgICBdLAogICAgICAibWV0aG9kIjogImZpbGVzIiwKICAgICAgImFsbG93X3N5bWxpbmtzIjogZmFsc2"
        "UKICAgIH0KICB9Cn0=\",\"payloadType\":\"application/vnd.in-toto+json\",\"signatures\":[{"
        "\"sig\":\"MIGIAkIBLE3VFLLakR9ihPlPLsy3tDUBIJGr8nGpwNJ2Zd1kDaQrIUjfo9O6ZDxOgGPxcH4EZ"
        "70Zz0DrCW3tchfgKK6sFi8CQgE5tiDhV91JQdNBUghqFnr2JgSU4SzmOyKzzCBeBf26G5vXDfj6jvpDw"
        "H1z/MeOVgY5ZKI7eIaRhEFCN/TU3C1cWA==\",\"keyid\":\"\"}]}}",
    },
}};

}  // namespace dsv3::testing
