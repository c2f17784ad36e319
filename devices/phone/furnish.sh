#!/bin/sh
# Makes the AArch64 files in PHONE look like Android: its folders and shell, and stand-ins for the services
# that a profiler reads: getprop, dumpsys, /sys.
#
#   sh furnish.sh PHONE QEMU
set -eu
phone=$1 qemu=$2
mkdir -p "$phone/system/bin" "$phone/system/dumpsys" "$phone/data/local/tmp" "$phone/dev" "$phone/proc" \
    "$phone/tmp" "$phone/etc"
for applet in $("$qemu" -L "$phone" "$phone/bin/toybox"); do
    ln -sf /bin/toybox "$phone/system/bin/$applet"
done
ln -sf mksh "$phone/bin/sh"
ln -sf /bin/mksh "$phone/system/bin/sh"
echo root:x:0:0::/:/bin/sh > "$phone/etc/passwd"
echo root:x:0: > "$phone/etc/group"

cat > "$phone/system/build.prop" << 'END'
ro.product.manufacturer=edgekron
ro.product.model=virtual phone
ro.product.cpu.abi=arm64-v8a
ro.product.cpu.abilist=arm64-v8a
ro.build.version.sdk=34
ro.build.fingerprint=edgekron/virtual/virtual:14/1/1:user/test-keys
ro.soc.model=QEMU
END
cat > "$phone/system/bin/getprop" << 'END'
#!/system/bin/sh
[ $# = 0 ] && { sed -n 's/^\([a-z][^=]*\)=\(.*\)$/[\1]: [\2]/p' /system/build.prop; exit 0; }
sed -n "s/^$1=//p" /system/build.prop | head -n 1
END
cat > "$phone/system/bin/dumpsys" << 'END'
#!/system/bin/sh
cat "/system/dumpsys/$1" 2> /dev/null || echo "Can't find service: $1"
END
chmod +x "$phone/system/bin/getprop" "$phone/system/bin/dumpsys"
cat > "$phone/system/dumpsys/thermalservice" << 'END'
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=71.0, mType=0, mName=cpu-0, mStatus=0}
HAL Ready: true
HAL connection:
	Sdk Version: 34
Current temperatures from HAL:
	Temperature{mValue=31.5, mType=0, mName=cpu-0, mStatus=0}
	Temperature{mValue=28.0, mType=3, mName=skin, mStatus=0}
Current cooling devices from HAL:
END
cat > "$phone/system/dumpsys/battery" << 'END'
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  status: 2
  health: 2
  present: true
  level: 83
  scale: 100
  voltage: 4102
  temperature: 268
  technology: Li-ion
END

# As many cores as this machine has, at most eight; the last one is big.
cores=$(nproc)
[ "$cores" -le 8 ] || cores=8
cpu=$phone/sys/devices/system/cpu
mkdir -p "$cpu" "$phone/sys/class/thermal/thermal_zone0"
for list in possible present online; do echo "0-$((cores - 1))" > "$cpu/$list"; done
core=0
while [ $core -lt "$cores" ]; do
    big=$((core == cores - 1))
    mkdir -p "$cpu/cpu$core/cpufreq"
    echo $((big ? 1024 : 410)) > "$cpu/cpu$core/cpu_capacity"
    echo schedutil > "$cpu/cpu$core/cpufreq/scaling_governor"
    echo $((big ? 2840000 : 1800000)) > "$cpu/cpu$core/cpufreq/cpuinfo_max_freq"
    echo $((big ? 2419200 : 1036800)) > "$cpu/cpu$core/cpufreq/scaling_cur_freq"
    core=$((core + 1))
done
echo cpu-0-0 > "$phone/sys/class/thermal/thermal_zone0/type"
echo 31500 > "$phone/sys/class/thermal/thermal_zone0/temp"
