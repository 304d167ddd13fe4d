"""Which Vulkan devices this machine has, asked of the loader itself."""

from __future__ import annotations

import ctypes
import functools

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.gpu_device import GpuDevice, wanted_devices

_LOADERS = ("libvulkan.so.1", "libvulkan.so")
_TYPES = ("other", "integrated GPU", "discrete GPU", "virtual GPU", "software on the CPU")
_API_VERSION_1_1 = 1 << 22 | 1 << 12
_LOADER_HINT = "sudo apt-get install libvulkan1, and the driver of your GPU"
_DRIVER_HINT = "install your GPU's driver (Mesa: sudo apt-get install mesa-vulkan-drivers)"


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("application", ctypes.c_char_p),
        ("application_version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("num_layers", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("num_extensions", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _Properties(ctypes.Structure):
    _fields_ = (
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_byte * 1024),  # limits, which have 560 bytes
    )


@functools.cache
def list_vulkan_devices() -> tuple[GpuDevice, ...]:
    """Return every device that Vulkan finds.

    Raises
    ------
    DeviceUnavailableError
        If there is no loader, or it cannot start.
    """
    vulkan = _load()
    application = _ApplicationInfo(type=0, api_version=_API_VERSION_1_1)
    info = _InstanceInfo(type=1, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    result = vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance))
    if result != 0:
        msg = f"Vulkan cannot start here: no driver (vkCreateInstance: {result})"
        raise DeviceUnavailableError(msg, hint=_DRIVER_HINT)
    try:
        count = ctypes.c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
        handles = (ctypes.c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        return tuple(_describe(vulkan, number, handle) for number, handle in enumerate(handles))
    finally:
        vulkan.vkDestroyInstance(instance, None)


def check_vulkan() -> list[GpuDevice]:
    """Return the devices that can run a bundle.

    Raises
    ------
    DeviceUnavailableError
        If there is none, or OFA_VULKAN_DEVICE names another.
    """
    devices = [device for device in list_vulkan_devices() if device.can_run]
    if not devices:
        msg = "Vulkan finds no device with version 1.1 or later on this machine"
        raise DeviceUnavailableError(msg, hint=_DRIVER_HINT)
    return wanted_devices(devices, "OFA_VULKAN_DEVICE")


def _load() -> ctypes.CDLL:
    for name in _LOADERS:
        try:
            vulkan = ctypes.CDLL(name)
        except OSError:
            continue
        pointer = ctypes.c_void_p
        vulkan.vkCreateInstance.argtypes = (pointer, pointer, pointer)
        vulkan.vkEnumeratePhysicalDevices.argtypes = (pointer, pointer, pointer)
        vulkan.vkGetPhysicalDeviceProperties.argtypes = (pointer, pointer)
        vulkan.vkDestroyInstance.argtypes = (pointer, pointer)
        return vulkan
    msg = f"no Vulkan on this machine: {_LOADERS[0]} cannot be loaded"
    raise DeviceUnavailableError(msg, hint=_LOADER_HINT)


def _describe(vulkan: ctypes.CDLL, number: int, handle: int | None) -> GpuDevice:
    properties = _Properties()
    vulkan.vkGetPhysicalDeviceProperties(handle, ctypes.byref(properties))
    version = properties.api_version
    return GpuDevice(
        number=number,
        name=properties.name.decode(errors="replace"),
        kind=_TYPES[properties.type] if properties.type < len(_TYPES) else _TYPES[0],
        version=f"Vulkan {version >> 22 & 127}.{version >> 12 & 1023}",
        can_run=version >= _API_VERSION_1_1,
    )
