#!/usr/bin/env bash
# Starts one command on every host of a TPU slice and fails if it fails on any of them.
set -euo pipefail

usage() {
  cat <<'TEXT'
Starts one command on every host of a TPU slice; each line of output names its host.

    launch/tpu_pod.sh --name=SLICE --zone=ZONE [options] -- COMMAND...

    launch/tpu_pod.sh --name=v5e-16 --zone=europe-west4-b --sync -- \
        'pip install -e ".[tpu,gcs]" && python3 launch/study.py \
           --config=configs/studies/quickstart.py --workdir=gs://bucket/quickstart'

  --name=SLICE      name of the TPU VM slice
  --zone=ZONE       its zone
  --project=ID      its project; otherwise gcloud's own
  --folder=FOLDER   checkout on the hosts, where the command starts; default: fairkd_jax
  --sync            copy this checkout there first: files that git tracks, and new ones it does
                    not ignore; otherwise nothing is copied
  --dry_run         print the commands and run none

Needs gcloud, logged in. The exit status is gcloud's: not 0 if any host fails. The command runs in
a login shell on each host; JAX finds the other hosts by itself.
TEXT
}

fail() {
  printf 'tpu_pod.sh: %s\n\n' "$1" >&2
  usage >&2
  exit 2
}

name='' zone='' project='' folder=fairkd_jax sync='' dry_run=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --folder=*) folder=${1#*=} ;;
    --sync) sync=yes ;;
    --dry_run) dry_run=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) fail "unknown argument '$1'" ;;
  esac
  shift
done
[[ -n $name ]] || fail '--name=SLICE is missing'
[[ -n $zone ]] || fail '--zone=ZONE is missing'
[[ -n $folder ]] || fail '--folder= is empty'
(($#)) || fail 'the command is missing: write it after --'
command=$* # one string: the shell of each host reads it

where=("--zone=$zone" --worker=all)
[[ -z $project ]] || where+=("--project=$project")

run() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--command=$1"
}

# Names the host before every line, as it comes, and keeps the command's status (pipefail).
# shellcheck disable=SC2016 # expanded on the hosts
prefix='sed -u "s/^/[$(hostname)] /"'
there=$(printf '%q' "$folder")

if [[ -n $sync ]]; then
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  archive=$(mktemp -d)
  trap 'rm -rf "$archive"' EXIT
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      [[ ! -e $file ]] || printf '%s\0' "$file" # tracked and deleted: not there to copy
    done | tar --null -czf "$archive/checkout.tgz" -T -
  run gcloud compute tpus tpu-vm scp "$archive/checkout.tgz" "$name:fairkd_jax_checkout.tgz" \
    "${where[@]}"
  on_hosts "mkdir -p $there && tar -xzf fairkd_jax_checkout.tgz -C $there"
fi
on_hosts "set -o pipefail; cd $there && ($command
) 2>&1 | $prefix"
