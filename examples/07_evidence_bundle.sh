#!/usr/bin/env bash
# From a suspect to evidence that a stranger checks: planned, asked, tested, sealed, signed, time-stamped, and verified in
# a fresh environment without wmark. Usage: 07_evidence_bundle.sh DEMO CASE [PROBES], DEMO being the folder of `wmark demo`.
set -euo pipefail
demo=$1 case=$2 probes=${3:-300}
wmark=${WMARK:-wmark} python=${PYTHON:-python3}
suspect=${SUSPECT:-$demo/thief} prompts=${PROMPTS:-watermark/demo/prompts/probe.jsonl}
rm -rf "$case" && mkdir -p "$case"
say() { printf '\n== %s\n' "$1"; }

openssl genpkey -algorithm ed25519 -out "$case/signer.pem" && chmod 600 "$case/signer.pem"
openssl pkey -in "$case/signer.pem" -pubout -out "$case/signer.pub.pem"

say "1. the plan, signed and stamped before the first question; the key's commitment, stamped"
head -n "$probes" "$prompts" > "$case/probes.jsonl"
$wmark plan --mark "$demo/ours.wmark" --access text --prompts "$case/probes.jsonl" --tokens-per-answer 20 \
  --output "$case/plan.json" > "$case/plan.txt"
$wmark evidence authority "$case/authority"
$wmark evidence sign "$case/plan.json" --key "$case/signer.pem"
$wmark evidence timestamp "$case/plan.json" --authority "$case/authority"
sed -n 's/.*"commitment": *"\([0-9a-f]*\)".*/\1/p' "$demo/ours.profile.json" | tr -d '\n' > "$case/commitment"
$wmark evidence timestamp "$case/commitment" --authority "$case/authority"
sleep 1  # time stamps count whole seconds

say "2. the suspect is asked, under the plan"
$wmark probe "$suspect" --prompts "$case/probes.jsonl" --plan "$case/plan.json" --output "$case/answers.jsonl" \
  --max-new-tokens 56 --temperature 0.7 --seed 1 --quiet

say "3. the test that was planned"
$wmark detect "$case/answers.jsonl" --mark "$demo/ours.wmark" --tokenizer "$demo/untrained" --plan "$case/plan.json" \
  --output "$case/evidence.json" --quiet

say "4. sealed twice: the same bytes"
for copy in CASE AGAIN; do
  $wmark evidence bundle "$case/evidence.json" --answers "$case/answers.jsonl" --plan "$case/plan.json" \
    --profile "$demo/ours.profile.json" --commitment-token "$case/commitment.tsr" --tokenizer "$demo/untrained" \
    --output "$case/$copy.bag"
done
export SOURCE_DATE_EPOCH=1800000000
for copy in CASE AGAIN; do $wmark evidence sign "$case/$copy.bag" --key "$case/signer.pem"; done
unset SOURCE_DATE_EPOCH
diff -r "$case/CASE.bag" "$case/AGAIN.bag" && echo "CASE.bag and AGAIN.bag are the same, signatures and all"

say "5. stamped"
$wmark evidence timestamp "$case/CASE.bag" --authority "$case/authority"

say "6. a stranger's machine: Python and numpy, sha256sum, openssl"
$python -m venv "$case/stranger"
"$case/stranger/bin/python" -m pip install --quiet --disable-pip-version-check ${CONSTRAINTS:+-c "$CONSTRAINTS"} numpy
if "$case/stranger/bin/python" -I -c 'import watermark' 2> /dev/null; then echo "wmark is here"; exit 1; fi
"$case/stranger/bin/python" -I "$case/CASE.bag/data/verify.py" "$case/CASE.bag" --key "$demo/ours.wmark" \
  --signer "$case/signer.pub.pem" --authority "$case/authority/authority.pem"
(
  cd "$case/CASE.bag"
  sha256sum --quiet -c tagmanifest-sha256.txt manifest-sha256.txt && echo "sha256sum: all files are as they were"
  signer=$(basename signers/*.pem .pem)
  sed 's/.*"payload":"\([^"]*\)".*/\1/' attestation.dsse.json | base64 -d > ../payload
  printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < ../payload)" > ../signed && cat ../payload >> ../signed
  sed "s/.*\"keyid\":\"$signer\",\"sig\":\"\([^\"]*\)\".*/\1/" attestation.dsse.json | base64 -d > ../signature
  openssl pkeyutl -verify -pubin -inkey ../signer.pub.pem -rawin -in ../signed -sigfile ../signature
  openssl ts -verify -data attestation.dsse.json -in attestation.tsr -CAfile ../authority/authority.pem 2> /dev/null
)

say "7. our own verifier"
$wmark evidence verify "$case/CASE.bag" --mark "$demo/ours.wmark" --signer "$case/signer.pub.pem" \
  --authority "$case/authority/authority.pem"
