#!/bin/sh
# profile.sh: latency of a compressed network against the dense one on an Android phone, by adb alone.
# For a machine that holds the phone but no edgekron; any POSIX shell, nothing is installed. See --help.
set -u
export LC_ALL=C

usage() {
    cat << 'END'
Times a compressed network against the dense one on an Android phone.

  sh profile.sh --benchmark-model PROGRAM [OPTIONS] COMPRESSED.tflite DENSE.tflite
  sh profile.sh --ekrun PROGRAM --library LIBRARY [OPTIONS] COMPRESSED.onnx DENSE.onnx

PROGRAM and LIBRARY are the phone's: TensorFlow's benchmark_model for Android; or ekrun (see runner/build.sh)
and libonnxruntime.so for Android. They and the two files are pushed to a folder of their own below
/data/local/tmp, which is removed in the end, also when this script is killed.

  --serial SERIAL     which phone, where several are attached (default: $ANDROID_SERIAL)
  --adb CLIENT        the adb client (default: adb)
  --threads N         of the runtime (1)
  --rounds N          in each, both files run, by turns first (10)
  --runs N            timed runs of a file in a round (50), after --warmup N untimed ones (10)
  --cores WHICH       big: the biggest alike, or more if the threads are more; all; or a mask such as f0 (big)
  --cool SECONDS      how long to wait, before any round, for thermal status 0 and a battery of at most
  --celsius N         that many degrees (300 s; 40 degrees C)
  --limit SECONDS     for one round of one file, for one push; and for any other call, if below 30 (300)
  --flags FLAGS       more for benchmark_model, for instance --use_gpu=true (--use_xnnpack=true)
  --out FOLDER        a new one, for raw samples and logs (edgekron-profile-DATE)

Examples
  sh profile.sh --benchmark-model android_aarch64_benchmark_model small.tflite dense.tflite
  sh profile.sh --serial R58N123 --threads 4 --ekrun ekrun --library libonnxruntime.so small.onnx dense.onnx

ekrun computes on zeros, benchmark_model on random numbers: this measures time, not parity.
Exit codes: 1 a run failed, 2 usage, 6 no phone, or a phone that is lost, slow to answer or too hot.
END
}
say() { printf '%s\n' "$*" >&2; }
die() {
    code=$1
    shift
    say "profile.sh: $*"
    exit "$code"
}
wrong() { die 2 "$*; see: sh profile.sh --help"; }
nap() { sleep 0.2 2> /dev/null || sleep 1; } # some know whole seconds only
whole() { case $2 in '' | *[!0-9]* | 0[0-9]*) wrong "$1 '$2': expected a whole number" ;; esac; }

adb=adb serial=${ANDROID_SERIAL:-} threads=1 rounds=10 runs=50 warmup=10 cores=big
cool=300 celsius=40 limit=300 flags=--use_xnnpack=true out=edgekron-profile-$(date +%Y%m%d-%H%M%S)
program='' library='' kind=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --*) [ $# -gt 1 ] || wrong "$1 needs a value" ;;
        *) break ;;
    esac
    case $1 in
        --adb) adb=$2 ;;
        --serial) serial=$2 ;;
        --benchmark-model | --ekrun) kind=${1#--} program=$2 ;;
        --library) library=$2 ;;
        --threads | --rounds | --runs | --warmup | --cool | --celsius | --limit)
            whole "$1" "$2"
            eval "${1#--}=\$2"
            ;;
        --cores) cores=$2 ;;
        --flags) flags=$2 ;;
        --out) out=$2 ;;
        *) wrong "unknown option $1" ;;
    esac
    shift 2
done
[ $# -eq 2 ] || wrong "expected two files, the compressed and the dense network"
case $kind in
    '') wrong "give --benchmark-model for .tflite files, or --ekrun and --library for .onnx files" ;;
    ekrun) suffix=onnx name=ekrun ;;
    *) suffix=tflite name=benchmark_model library='' ;;
esac
[ "$kind" != ekrun ] || [ -n "$library" ] || wrong "--ekrun needs --library libonnxruntime.so"
for each in "$1" "$2"; do
    case $each in *."$suffix") ;; *) wrong "$each: --$kind takes .$suffix files" ;; esac
done
for each in "$1" "$2" "$program" ${library:+"$library"}; do [ -r "$each" ] || wrong "cannot read $each"; done
for each in threads rounds runs; do eval "[ \$$each -gt 0 ]" || wrong "--$each 0: expected at least 1"; done
case $cores in
    big | all) ;;
    '' | *[!0-9a-f]*) wrong "--cores '$cores': expected big, all, or a mask such as f0" ;;
esac
case $flags in *[!A-Za-z0-9_=.,\ /-]*) wrong "--flags '$flags': expected flags such as --use_gpu=true" ;; esac
compressed=$1 dense=$2 brief=$((limit < 30 ? limit : 30))

# client SECONDS ARGUMENTS.. [3< INPUT]: of adb, which is ended (exit code 143) after this time, or when this
# script is gone; fills $said. Not in $(..), or traps would wait; and no process that stays may keep this
# script's stdout or stderr, or whoever reads them would wait for it.
client() {
    seconds=$1
    shift
    "$adb" "$@" <&3 > "$out/answer" 2>> "$out/log.txt" &
    call=$!
    (
        while kill -0 "$call"; do
            { [ $((seconds -= 1)) -ge 0 ] && kill -0 $$; } || kill "$call"
            sleep 1
        done
    ) > /dev/null 2>&1 &
    wait "$call" 2> /dev/null
    code=$?
    call=''
    said=$(tr -d '\r' < "$out/answer")
    return $code
}
phone() { client "$1" -s "$serial" shell "$2"; }
lost() { die 6 "phone $serial does not answer: see $out/log.txt"; }

# The one phone that is ready, or why there is none.
choose() {
    client "$brief" start-server
    case $? in
        0) ;;
        126 | 127) die 6 "there is no $adb: install Android's platform-tools, or give --adb CLIENT" ;;
        *) die 6 "$adb start-server fails: try it by hand" ;;
    esac
    client "$brief" devices || die 6 "$adb devices does not answer within $brief s: try it by hand"
    attached=$(printf '%s\n' "$said" | awk -F '\t' 'NF == 2 { print $1 " " $2 }')
    names=$(printf '%s\n' "$attached" | awk 'NR > 1 { printf ", " } { printf "%s", $1 }')
    [ -n "$attached" ] || die 6 "no phone is attached: connect one and enable USB debugging"
    case $serial,$names in ,*,*) die 6 "several phones are attached, name one with --serial: $names" ;; esac
    serial=${serial:-$names}
    state=$(printf '%s\n' "$attached" | awk -v it="$serial" '$1 == it { $1 = ""; print substr($0, 2) }')
    case $state in
        device) ;;
        '') die 6 "phone $serial is not attached, but $names" ;;
        unauthorized) die 6 "phone $serial does not trust this machine: unlock it and accept its question" ;;
        *) die 6 "phone $serial is in the state '$state': reconnect it, then look at: $adb devices" ;;
    esac
}

# A process on the phone that makes the folder; when its stdin closes, as it does when this script ends in
# whatever way, it ends what runs in the folder and removes it. Files are written from within the folder, for
# adb push would make it again.
keep() {
    folder=/data/local/tmp/edgekron-$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
    keeper="trap '' HUP INT TERM PIPE
        mkdir -m 700 $folder || exit 1
        echo ready
        cat > /dev/null
        for each in /proc/[0-9]*; do [ \$each/cwd -ef $folder ] && kill -9 \${each#/proc/}; done 2> /dev/null
        rm -rf $folder || { sleep 1 && rm -rf $folder; }"
    : > "$out/ready"
    # shellcheck disable=SC2094 # it looks only whether the file is there
    (while kill -0 $$ && [ -e "$out/ready" ]; do nap; done) 2> /dev/null |
        "$adb" -s "$serial" shell "$keeper" > "$out/ready" 2>> "$out/log.txt" &
    keeper=$!
    tries=0
    until grep -q ready "$out/ready"; do
        tries=$((tries + 1))
        { [ $tries -lt $((5 * brief)) ] && kill -0 $keeper; } 2> /dev/null ||
            die 6 "phone $serial lets no folder be made in /data/local/tmp: see $out/log.txt"
        nap
    done
}
leave() {
    trap '' INT TERM HUP
    [ -z "$call" ] || kill "$call" 2> /dev/null
    rm -f "$out/ready" "$out/answer" "$out/round"
    [ -s "$out/log.txt" ] || rm -f "$out/log.txt"
    rmdir "$out" 2> /dev/null # if there is nothing in it
    [ -n "$keeper" ] || return
    tries=0
    while [ $((tries += 1)) -le 100 ] && kill -0 "$keeper" 2> /dev/null; do nap; done
    kill "$keeper" 2> /dev/null
    wait "$keeper" || say "profile.sh: phone $serial does not answer: look whether $folder is gone"
}
call='' folder='' keeper=''

checksum() {
    { sha256sum || shasum -a 256 || openssl dgst -sha256 -r; } < "$1" 2> /dev/null | cut -c 1-64
}
push() { # FILE NAME
    phone "$limit" "cd $folder && cat > $2 && chmod 700 $2 && sha256sum $2" 3< "$1" ||
        die 6 "cannot push $1 to phone $serial: $(tail -n 1 "$out/log.txt")"
    [ "${said%% *}" = "$(checksum "$1")" ] || die 6 "$1 arrived on phone $serial with another sha256: $said"
}

# The mask of the biggest cores, as many as there are threads; empty if the phone does not tell.
big_cores() {
    # shellcheck disable=SC2016
    phone "$brief" 'for each in /sys/devices/system/cpu/cpu[0-9]*; do
        [ "$(cat $each/online 2> /dev/null)" = 0 ] && continue
        capacity=$(cat $each/cpu_capacity 2> /dev/null)
        frequency=$(cat $each/cpufreq/cpuinfo_max_freq 2> /dev/null)
        echo "${each##*cpu} ${capacity:-0} ${frequency:-0}"
    done' || lost
    printf '%s\n' "$said" | awk -v threads="$threads" '
        { capacity[$1] = $2; frequency[$1] = $3; if ($2 == 0) untold = 1 }
        END {
            while (count < threads) {
                most = 0
                for (core in capacity) {
                    size = untold ? frequency[core] : capacity[core]
                    if (!(core in taken) && size > most) most = size
                }
                if (most == 0) break
                for (core in capacity) {
                    size = untold ? frequency[core] : capacity[core]
                    if (!(core in taken) && size == most) { taken[core] = 1; mask += 2 ^ core; count++ }
                }
            }
            if (mask) printf "%x", mask
        }'
}
pin() {
    [ "$cores" != big ] || cores=$(big_cores) || exit
    case $cores in
        '') say "phone $serial does not tell the size of its cores: not pinned" ;;
        all) cores='' ;;
        *)
            phone "$brief" "taskset $cores grep Cpus_allowed: /proc/self/status"
            found=$(printf '%s\n' "$said" | tr -d ',' | awk '{ sub(/^0*/, "", $2); print $2 }')
            [ "$found" = "$(printf '%s\n' "$cores" | sed 's/^0*//')" ] ||
                die 6 "phone $serial does not pin to cores $cores (it allows '$found'): try --cores all"
            ;;
    esac
    printf 'cores: %s\n' "${cores:-not pinned}"
}

# shellcheck disable=SC2016 # for the phone to expand, here and below
STATE='dumpsys thermalservice 2> /dev/null | grep "Thermal Status:" | head -n 1
dumpsys battery 2> /dev/null | sed "/^[[:space:]]*\$/q" |
    grep -E "^  ((AC|USB|Wireless) powered: true|level:|temperature:)"
cd /sys/devices/system/cpu && for each in cpu[0-9]*; do
    echo $each $(cat $each/cpufreq/scaling_governor $each/cpufreq/scaling_cur_freq 2> /dev/null) kHz
done'
conditions() {
    phone "$brief" "$STATE" || lost
    printf '%s:\n%s\n' "$1" "$(printf '%s\n' "$said" | sed 's/^ */  /')"
}
# Wait for thermal status 0 and a battery that is not warm, as far as the phone tells them.
cool_down() {
    waited=0
    while :; do
        phone "$brief" "$STATE" || lost
        why=$(printf '%s\n' "$said" | awk -v limit="$celsius" '
            /Thermal Status:/ && $3 > 0 { print "thermal status " $3 }
            /temperature:/ && $2 > 10 * limit { print "battery " $2 / 10 " C" }')
        [ -n "$why" ] || return 0
        [ $waited -lt "$cool" ] || die 6 "phone $serial is hot after $cool s: $why; see --cool and --celsius"
        [ $waited -gt 0 ] || say "waiting for the phone to cool down: $why"
        sleep 2
        waited=$((waited + 2))
    done
}

# One round of one file: its samples in microseconds, one per line.
measure() {
    if [ "$kind" = ekrun ]; then
        command="./ekrun ./libonnxruntime.so $1.onnx --threads $threads --runs $runs --warmup $warmup"
    else
        command="./benchmark_model --graph=$1.tflite --num_threads=$threads --num_runs=$runs"
        command="$command --warmup_runs=$warmup --min_secs=0 --warmup_min_secs=0 $flags"
    fi
    phone "$limit" "cd $folder && exec ${cores:+taskset $cores }$command 2>&1"
    code=$?
    printf '%s\n%s\n' "$command" "$said" >> "$out/log.txt"
    [ $code -ne 143 ] || die 6 "a round of $1 took more than $limit s on phone $serial: see --limit, --runs"
    if [ "$kind" = ekrun ]; then
        printf '%s\n' "$said" | sed -n 's/.*"nanoseconds": \[\([0-9, ]*\)\].*/\1/p' | tr ',' '\n' |
            awk '{ printf "%.3f\n", $1 / 1000 }' > "$out/round"
    else # it tells no single runs; their mean is in the last count=, or the one run that there was
        printf '%s\n' "$said" | awk '/count=[0-9]/ {
            for (k = 1; k <= NF; k++) if ($k ~ /^(curr|avg)=/) mean = substr($k, index($k, "=") + 1)
        }
        END { if (mean > 0) printf "%.3f\n", mean }' > "$out/round"
    fi
    if [ $code -ne 0 ] || [ ! -s "$out/round" ]; then
        why=$(printf '%s\n' "$said" | tail -n 1)
        phone "$brief" true || die 6 "phone $serial was lost in a run of $1: see $out/log.txt"
        die 1 "$1 does not run on phone $serial: $why; see $out/log.txt"
    fi
    awk -v round="$round" -v name="$1" '{ print round "\t" name "\t" $1 }' "$out/round" >> "$out/samples.tsv"
}
delegate() {
    [ "$kind" != ekrun ] || return 0
    replaced=$(printf '%s\n' "$said" | grep -o 'Replacing .* partitions' | head -n 1)
    printf '%s: %s\n' "$1" "${replaced:-no delegate took any operator}"
}
median() { # of the file $1, in round $2 or in all
    awk -F '\t' -v name="$1" -v round="${2:-}" '$2 == name && (round == "" || $1 == round) { print $3 }' \
        "$out/samples.tsv" | sort -n | awk '{ v[NR] = $1 }
        END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
result() {
    round=0
    while [ $((round += 1)) -le "$rounds" ]; do
        echo "$(median dense $round) $(median compressed $round)"
    done | awk -v dense="$(median dense)" -v compressed="$(median compressed)" '
        { ratio = $1 / $2; if (NR == 1 || ratio < low) low = ratio; if (ratio > high) high = ratio }
        END {
            printf "compressed: %.3f ms\ndense: %.3f ms\n", compressed / 1000, dense / 1000
            printf "dense / compressed: %.2f (of one round: %.2f to %.2f)\n", dense / compressed, low, high
        }'
}

exec 3< /dev/null
mkdir "$out" || die 2 "--out $out: expected a folder that does not exist yet"
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
choose
phone "$brief" 'uname -srm; getprop' || lost
printf '%s\n' "$said" | awk -F '[][]' 'NF < 4 && NR == 1
    $2 ~ /^ro\.(product\.(manufacturer|model)|build\.fingerprint)$/ { print substr($2, 4) ": " $4 }
    $2 ~ /^ro\.(soc\.model|hardware\.chipname|board\.platform)$/ { print substr($2, 4) ": " $4 }'
keep
push "$program" "$name"
[ -z "$library" ] || push "$library" libonnxruntime.so
push "$compressed" "compressed.$suffix"
push "$dense" "dense.$suffix"
pin
cool_down
conditions before
round=0
while [ $((round += 1)) -le "$rounds" ]; do
    order='compressed dense'
    [ $((round % 2)) -eq 1 ] || order='dense compressed'
    cool_down
    for each in $order; do
        measure "$each"
        [ $round -gt 1 ] || delegate "$each"
    done
    say "round $round of $rounds"
done
conditions after
result
printf 'every sample, in microseconds: %s\n' "$out/samples.tsv"
