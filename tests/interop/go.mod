module sessile.invalid/interop

go 1.19
