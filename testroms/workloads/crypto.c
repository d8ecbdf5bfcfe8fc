// Hashes or encrypts a fixed number of bytes with the distribution's libcrypto.
// usage: crypto sha256|aes-256-gcm MEBIBYTES
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The parts of <openssl/evp.h> that are used, so that the library's headers need not be installed.
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
EVP_MD_CTX *EVP_MD_CTX_new(void);
const void *EVP_sha256(void), *EVP_aes_256_gcm(void);
int EVP_DigestInit_ex(EVP_MD_CTX *, const void *, void *);
int EVP_DigestUpdate(EVP_MD_CTX *, const void *, size_t);
int EVP_DigestFinal_ex(EVP_MD_CTX *, unsigned char *, unsigned *);
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
int EVP_EncryptInit_ex(EVP_CIPHER_CTX *, const void *, void *, const unsigned char *, const unsigned char *);
int EVP_EncryptUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int);
int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *, unsigned char *, int *);
int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *);
enum { GET_TAG = 0x10, PIECE = 16384 };

static void check(int ok) {
    if (!ok) {
        fputs("crypto: libcrypto failed\n", stderr);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    static unsigned char in[PIECE], out[PIECE + 32];
    unsigned char result[32] = {0};
    unsigned results = 0;
    for (int i = 0; i < PIECE; i++) in[i] = (unsigned char)(i * 7);
    long pieces = atol(argv[2]) * (1 << 20) / PIECE;
    if (!strcmp(argv[1], "sha256")) {
        EVP_MD_CTX *c = EVP_MD_CTX_new();
        check(EVP_DigestInit_ex(c, EVP_sha256(), NULL));
        while (pieces-- > 0) check(EVP_DigestUpdate(c, in, PIECE));
        check(EVP_DigestFinal_ex(c, result, &results));
    } else {
        unsigned char key[32], nonce[12] = {1};
        int n;
        memset(key, 0x42, sizeof key);
        EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
        check(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, nonce));
        while (pieces-- > 0) check(EVP_EncryptUpdate(c, out, &n, in, PIECE));
        check(EVP_EncryptFinal_ex(c, out, &n));
        check(EVP_CIPHER_CTX_ctrl(c, GET_TAG, 16, result));
        results = 16;
    }
    for (unsigned i = 0; i < results; i++) printf("%02x", result[i]);
    puts("");
}
