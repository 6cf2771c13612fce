#!/usr/bin/env bash
# Ask a service of `p3d serve` for the classes and the segments of a video, with curl:
#     examples/serve_client.sh walk.avi [http://127.0.0.1:8000]
# TOKEN_FILE names the file with the token of the service, if it has one.
set -euo pipefail

[[ $# -ge 1 ]] || { printf 'usage: %s VIDEO [URL]\n' "${0##*/}" >&2; exit 2; }
video=$1 url=${2:-http://127.0.0.1:8000}
options=(--silent --show-error --retry 5) # curl waits as Retry-After says
[[ -z ${TOKEN_FILE:-} ]] || options+=(--header "Authorization: Bearer $(<"$TOKEN_FILE")")

curl "${options[@]}" --form "video=@$video" "$url/v1/predict?top=3"
echo
job=$(curl "${options[@]}" --form "video=@$video" "$url/v1/timeline" | sed -E 's/.*"id":"([^"]+)".*/\1/')
until answer=$(curl "${options[@]}" "$url/v1/timeline/$job") && [[ ! $answer =~ '"state":"'(waiting|running) ]]; do
    sleep 0.5
done
echo "$answer"
