	.text
	.amdgcn_target "amdgcn-amd-amdhsa--gfx942"
together:                               ; @together
; %bb.0:
	s_load_dwordx4 s[4:7], s[0:1], 0x0
	s_load_dwordx2 s[2:3], s[0:1], 0x10
	v_lshlrev_b32_e32 v1, 4, v0
	v_xor_b32_e32 v14, 1, v0
	v_lshlrev_b32_e32 v14, 4, v14
	s_waitcnt lgkmcnt(0)
	global_load_dwordx4 v[2:5], v1, s[6:7]
	global_load_dwordx4 v[6:9], v1, s[4:5] nt
	global_load_dwordx4 v[10:13], v1, s[4:5] offset:2048 nt
	v_lshlrev_b32_e32 v0, 2, v0
	s_waitcnt vmcnt(2)
	ds_write_b128 v1, v[2:5]
	s_barrier
	ds_read_b128 v[2:5], v14
	s_waitcnt vmcnt(1)
	v_xor_b32_e32 v1, v6, v7
	v_xor_b32_e32 v1, v1, v8
	s_waitcnt vmcnt(0)
	v_xor_b32_e32 v6, v10, v11
	v_xor_b32_e32 v1, v1, v9
	s_waitcnt lgkmcnt(0)
	v_xor_b32_e32 v2, v2, v3
	v_xor_b32_e32 v2, v2, v4
	v_xor_b32_e32 v2, v2, v5
	v_xor_b32_e32 v6, v6, v12
	v_mul_lo_u32 v1, v2, v1
	v_xad_u32 v1, v6, v13, v1
	global_store_dword v0, v1, s[2:3]
	s_endpgm
	.section	.rodata,"a",@progbits
chained:                                ; @chained
; %bb.0:
	s_load_dwordx4 s[4:7], s[0:1], 0x0
	v_lshlrev_b32_e32 v6, 2, v0
	v_mov_b32_e32 v5, 0
	s_waitcnt lgkmcnt(0)
	global_load_dword v4, v6, s[6:7]
	v_mov_b32_e32 v0, s4
	v_mov_b32_e32 v1, s5
	s_waitcnt vmcnt(0)
	v_lshl_add_u64 v[0:1], v[4:5], 4, v[0:1]
	global_load_dwordx4 v[0:3], v[0:1], off nt
	s_waitcnt vmcnt(0)
	v_xor_b32_e32 v0, v0, v1
	v_xor_b32_e32 v0, v0, v3
	v_cmp_ne_u32_e32 vcc, v0, v2
	s_and_saveexec_b64 s[2:3], vcc
	s_cbranch_execz .LBB1_2
; %bb.1:
	v_mov_b32_e32 v3, v5
	v_lshl_add_u64 v[0:1], v[2:3], 2, s[6:7]
	global_load_dword v0, v[0:1], off
	s_load_dwordx2 s[0:1], s[0:1], 0x10
	s_waitcnt vmcnt(0) lgkmcnt(0)
	global_store_dword v6, v0, s[0:1]
.LBB1_2:
	s_endpgm
	.section	.rodata,"a",@progbits
looped:                                 ; @looped
; %bb.0:
	s_load_dword s2, s[0:1], 0x10
	s_load_dwordx4 s[4:7], s[0:1], 0x0
	v_mov_b32_e32 v3, 0
	s_waitcnt lgkmcnt(0)
	s_cmp_lt_i32 s2, 1
	s_cbranch_scc1 .LBB2_3
; %bb.1:
	v_lshlrev_b32_e32 v2, 4, v0
	v_mov_b32_e32 v3, 0
	v_lshl_add_u64 v[4:5], s[4:5], 0, v[2:3]
	s_mov_b64 s[0:1], 0x800
.LBB2_2:                                ; =>This Inner Loop Header: Depth=1
	global_load_dwordx4 v[6:9], v[4:5], off nt
	s_add_i32 s2, s2, -1
	v_lshl_add_u64 v[4:5], v[4:5], 0, s[0:1]
	s_cmp_eq_u32 s2, 0
	s_waitcnt vmcnt(0)
	v_xor_b32_e32 v1, v6, v7
	v_xor_b32_e32 v1, v1, v8
	v_xad_u32 v3, v1, v9, v3
	s_cbranch_scc0 .LBB2_2
.LBB2_3:
	v_lshlrev_b32_e32 v0, 2, v0
	global_store_dword v0, v3, s[6:7]
	s_endpgm
	.section	.rodata,"a",@progbits
	.section	.bss,"aw",@nobits
