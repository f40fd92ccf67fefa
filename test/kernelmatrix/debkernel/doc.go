// Package debkernel finds, downloads and unpacks Debian's cloud kernels, and
// reads their modules. It needs Debian's packages apt, dpkg and xz-utils, and a
// network when a kernel is not in the cache yet.
package debkernel
